-- ARGV: key, mid, server, generation or nothing, of each session. Answers for each: nothing when it is the stored one,
-- the holder's server and generation, or the one text of what was wrong.
local function renew(key, mid, server, generation)
  local by, of, stored_mid, after = holder(key)
  if by then
    local is_it
    if generation ~= '' then is_it = generation == of else is_it = server == by end
    if is_it then
      local gen, devices = prefix .. 'gen_' .. key, prefix .. 'mid_' .. (stored_mid or mid)
      redis.call('HSET', devices, key, by)
      redis.call('EXPIRE', devices, ttl)
      redis.call('EXPIRE', prefix .. 'key_' .. key, ttl)
      -- Of a Go logic's login, what we wrote for an earlier one stays its fence.
      if redis.call('EXPIRE', gen, ttl) == 0 then
        redis.call('SET', gen, of .. ' ' .. mid .. ' ' .. by, 'EX', ttl)
      end
      return {}
    end
    if generation == '' or older(generation, of) or (after and not older(after, generation)) then
      return { by, of }
    end
  end
  store(key, mid, server, generation ~= '' and generation or '0')
  return {}
end

local answers = {}
for at = 3, #ARGV, 4 do
  -- One key of another type must not keep the others of the batch from living.
  local fine, answer = pcall(renew, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not fine then answer = { type(answer) == 'table' and answer.err or tostring(answer) } end
  answers[#answers + 1] = answer
end
return answers
