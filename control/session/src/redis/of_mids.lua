-- ARGV: mids. Answers for each its devices: key, server, generation or nothing, flat; or, where another type stands, the one
-- text of what is wrong.
local answers = {}
for at = 3, #ARGV do
  local mid, devices = ARGV[at], {}
  -- Another's value is nobody's devices, and must not hide those of the other users.
  local keys = redis.pcall('HKEYS', prefix .. 'mid_' .. mid)
  if keys.err then
    if not string.find(keys.err, '^WRONGTYPE') then return keys end
    keys, devices = {}, { keys.err }
  end
  for first = 1, #keys, 1000 do
    local names = {}
    for n = first, math.min(first + 999, #keys) do
      names[#names + 1] = prefix .. 'key_' .. keys[n]
      names[#names + 1] = prefix .. 'gen_' .. keys[n]
    end
    local found = redis.call('MGET', unpack(names))
    for n = 1, #found, 2 do
      local server = found[n]
      -- Without one the device died: only its user's hash still has it.
      if server then
        local generation, owner, by = ours(found[n + 1])
        if by ~= server then generation, owner = '', mid end
        if owner == mid then
          devices[#devices + 1] = keys[first + (n - 1) / 2]
          devices[#devices + 1] = server
          devices[#devices + 1] = generation
        end
      end
    end
  end
  answers[#answers + 1] = devices
end
return answers
