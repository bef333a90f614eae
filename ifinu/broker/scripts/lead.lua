#!lua flags=allow-oom
-- Take the turn, or keep it.
-- KEYS: turn
-- ARGV: who, for how long (ms)
-- Returns who has it now.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
