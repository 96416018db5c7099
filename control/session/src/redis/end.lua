-- ARGV: key, mid, server, generation or nothing. Answers whether it was the stored session.
local key, mid, server, generation = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local by, of, stored_mid = holder(key)
if not by then return 0 end
if generation ~= '' then
  if generation ~= of then return 0 end
elseif server ~= by then
  return 0
end
redis.call('HDEL', prefix .. 'mid_' .. (stored_mid or mid), key)
redis.call('DEL', prefix .. 'key_' .. key, prefix .. 'gen_' .. key)
return 1
