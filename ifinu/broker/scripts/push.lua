#!lua
-- Push messages of the régua, unless this server is not the one that holds what was pushed before.
-- KEYS: epoch, ready
-- ARGV: the epoch, now (ms), messages, the one that is served first first
-- Returns the length of the list, or -1 if the server has another epoch, or none.
-- Without `allow-oom`: a full Redis refuses it, and the messages stay in the database.
local was = redis.call('HMGET', KEYS[1], 'epoca', 'visto')
if was[1] ~= ARGV[1] then
  return -1
end
for i = 3, #ARGV do
  redis.call('LPUSH', KEYS[2], ARGV[i])
end
if tonumber(ARGV[2]) > (tonumber(was[2] or '') or 0) then
  redis.call('HSET', KEYS[1], 'visto', ARGV[2])
end
return redis.call('LLEN', KEYS[2])
