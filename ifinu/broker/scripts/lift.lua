#!lua flags=allow-oom
-- Take the message that is served next out of a lane, in flight for the process that is going to bury it.
-- KEYS: queue, in flight, deadlines
-- ARGV: number, tenant, tag, lease (ms)
-- Returns its bytes, or nil if the lane is empty.
-- uses: numbers
local lane = KEYS[1] .. ':espera:' .. ARGV[1] .. ':' .. ARGV[2]
local message = redis.call('LINDEX', lane, -1)
if message then
  redis.call('HSET', KEYS[2], ARGV[3], message)
  redis.call('ZADD', KEYS[3], now + tonumber(ARGV[4]), ARGV[3])
  redis.call('RPOP', lane)
  redis.call('DECR', KEYS[1] .. ':na_espera')
end
forget_empty(KEYS[1], ARGV[1], ARGV[2])
return message
