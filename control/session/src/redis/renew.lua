-- ARGV: key, mid, server, generation or nothing, of each session. Answers for each: nothing when it is the stored one,
-- the holder's server and generation, or the one text of what was wrong.
--
-- While Redis is full it refuses a script's first write when that may need memory, and none after one that needs none. So
-- an EXPIRE comes first, or everybody would lose their sessions then.
local function renew(key, mid, server, generation)
  local by, of, stored_mid, after = holder(key)
  if by then
    local is_it
    if generation ~= '' then is_it = generation == of else is_it = server == by end
    if is_it then
      local gen, devices = prefix .. 'gen_' .. key, prefix .. 'mid_' .. (stored_mid or mid)
      redis.call('EXPIRE', prefix .. 'key_' .. key, ttl)
      -- Of a Go logic's login, what we wrote for an earlier one stays its fence.
      if redis.call('EXPIRE', gen, ttl) == 0 then
        redis.call('SET', gen, of .. ' ' .. mid .. ' ' .. by, 'EX', ttl)
      end
      redis.call('HSET', devices, key, by)
      redis.call('EXPIRE', devices, ttl)
      return {}
    end
    local is_older = older(generation, of)
    if generation ~= '' and not after then
      local ours, theirs = is_ahead(generation), is_ahead(of)
      if ours ~= theirs then is_older = ours end
    end
    if generation == '' or is_older or (after and not older(after, generation)) then
      return { by, of }
    end
  end
  redis.call('EXPIRE', prefix .. 'key_' .. key, ttl)
  store(key, mid, server, generation ~= '' and generation or '0')
  return {}
end

local answers = {}
for at = 3, #ARGV, 4 do
  local fine, answer = pcall(renew, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  if not fine then
    local wrong = type(answer) == 'table' and answer.err or tostring(answer) -- a text before Redis 7
    -- One key of another type must not keep the others of the batch from living; anything else befalls them all.
    if not string.find(wrong, 'WRONGTYPE', 1, true) then return { err = wrong } end
    answer = { wrong }
  end
  answers[#answers + 1] = answer
end
return answers
