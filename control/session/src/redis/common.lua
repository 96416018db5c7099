-- What every script of this folder begins with. ARGV: prefix, seconds to live, then the script's own.
local prefix, ttl = ARGV[1], ARGV[2]

-- Generations are decimal and never negative; as numbers of Lua they would lose digits.
local function older(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- A generation by so many microseconds from now, by Redis's clock, which generations are made from.
local function time(by)
  local now = redis.call('TIME')
  return string.format('%.0f', now[1] * 1000000 + now[2] + by)
end

-- How far ahead of the clock a generation may lie before the clock must have been set back since.
local AHEAD = 1000000
local function is_ahead(generation) return older(time(AHEAD), generation) end

-- What we wrote beside a session: generation, mid, server.
local function ours(value)
  return string.match(value or '', '^(%d+) (%-?%d+) (.*)$')
end

-- Who holds a key: server, generation, mid, and the generation after which it came; nothing when nobody does.
-- Where the server is not the one we wrote, a Go logic stored a login after ours: it has no generation and no known mid.
local function holder(key)
  local server = redis.call('GET', prefix .. 'key_' .. key)
  if not server then return nil end
  local generation, mid, by = ours(redis.call('GET', prefix .. 'gen_' .. key))
  if by == server then return server, generation, mid, nil end
  return server, '0', nil, generation or '0'
end

-- A user's hash lives while one of its devices does; those that died without an end are taken out bit by bit.
local function tidy(devices)
  if redis.call('HLEN', devices) <= 16 then return end
  local some = redis.pcall('HRANDFIELD', devices, 2) -- Redis 6.2
  for _, key in ipairs(some) do
    if redis.call('EXISTS', prefix .. 'key_' .. key) == 0 then redis.call('HDEL', devices, key) end
  end
end

-- Makes a login the key's session. What may fail, for a key of another type, comes first.
local function store(key, mid, server, generation)
  local _, old_mid = ours(redis.call('GET', prefix .. 'gen_' .. key))
  local devices = prefix .. 'mid_' .. mid
  redis.call('HSET', devices, key, server)
  if old_mid and old_mid ~= mid then redis.call('HDEL', prefix .. 'mid_' .. old_mid, key) end
  redis.call('EXPIRE', devices, ttl)
  redis.call('SET', prefix .. 'key_' .. key, server, 'EX', ttl)
  redis.call('SET', prefix .. 'gen_' .. key, generation .. ' ' .. mid .. ' ' .. server, 'EX', ttl)
  tidy(devices)
end

