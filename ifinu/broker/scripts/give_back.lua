#!lua flags=allow-oom
-- Return messages to the head of the queue, in their old order.
-- KEYS: ready, in flight, deadlines, suspects (absent if no worker died with them)
-- ARGV: tags, the oldest message first
-- Returns the number that were still in flight.
local returned = 0
for i = #ARGV, 1, -1 do
  local message = redis.call('HGET', KEYS[2], ARGV[i])
  if message then
    redis.call('RPUSH', KEYS[1], message)
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    if KEYS[4] then
      redis.call('HSETNX', KEYS[4], redis.sha1hex(message), 0)
      redis.call('EXPIRE', KEYS[4], 3600)
    end
    returned = returned + 1
  end
end
return returned
