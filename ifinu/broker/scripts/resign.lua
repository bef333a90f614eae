#!lua flags=allow-oom
-- Leave the turn to the next, unless it is another's by now.
-- KEYS: turn
-- ARGV: who
-- Returns 1, or 0 when it was another's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
