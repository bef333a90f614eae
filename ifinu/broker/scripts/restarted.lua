#!lua flags=allow-oom
-- Let all numbers pause, for their longest gap and for a least time, if this server is not the one that was seen last:
-- it may lack what was sent last.
-- KEYS: numbers, server, since
-- ARGV: the server's id, the least time (ms)
-- Returns 1 if they pause.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local seen = redis.call('GET', KEYS[2])
if seen == ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1])
if not seen then -- the numbers were loaded into this server
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = math.max(now + ARGV[2], tonumber(redis.call('GET', KEYS[3])) or 0)
for _, number in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local n = redis.call('HMGET', 'ifinu:numero:' .. number, 'max', 'fator')
  local brake = math.min(1, math.max(0.1, tonumber(n[2]) or 1))
  ends = math.max(ends, now + math.ceil((tonumber(n[1]) or 0) / brake))
end
redis.call('SET', KEYS[3], string.format('%.0f', ends))
return 1
