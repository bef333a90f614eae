#!lua flags=allow-oom
-- Return messages to the queue, to be served next and in their old order.
-- KEYS: ready, in flight, deadlines
-- ARGV: tags, the oldest message first
-- Returns how many were still in flight.
local returned = 0
for i = #ARGV, 1, -1 do
  local message = redis.call('HGET', KEYS[2], ARGV[i])
  if message then
    redis.call('RPUSH', KEYS[1], message)
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    returned = returned + 1
  end
end
return returned
