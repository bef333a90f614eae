#!lua flags=allow-oom
-- Become the leader, or renew the leadership.
-- KEYS: leader
-- ARGV: name, lease (ms)
-- Returns the name of the leader.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
