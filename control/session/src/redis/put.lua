-- ARGV: key, mid, server, generation. Answers what became of it ('stored', 'superseded', 'undecided'), the generation it has,
-- or would have to be newer than, and who holds or held the key.
local function one_more(generation)
  local head, nines = string.match(generation, '^(.-)(9*)$')
  local digit = string.match(head, '%d$') or '0'
  return string.sub(head, 1, -2) .. (digit + 1) .. string.rep('0', #nines)
end

local key, mid, server, generation = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local by, of, stored_mid, after = holder(key)
local last = after or of
if by and not older(last, generation) then
  if generation ~= last then
    -- Against a session from the future, who comes now is newer; who waited may be so or not.
    if not is_ahead(last) or is_ahead(generation) or older(generation, time(-AHEAD)) then
      return { older(time(0), last) and 'undecided' or 'superseded', last, by, of }
    end
    generation = one_more(last)
  elseif server ~= by or mid ~= stored_mid then
    -- Another logic gave another login the same. On the same comet, for the same user, both are one row.
    generation = one_more(last)
  end
end
store(key, mid, server, generation)
return { 'stored', generation, by or false, of or false }
