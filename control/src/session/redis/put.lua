-- ARGV: key, mid, server, generation. Answers whether it is stored, and who holds or held the key.
local key, mid, server, generation = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local by, of, _, after = holder(key)
if by and older(generation, after or of) then return { 0, by, of } end
store(key, mid, server, generation)
return { 1, by or false, of or false }
