#!lua flags=allow-oom
-- Give up the leadership, unless another process leads by now.
-- KEYS: leader
-- ARGV: name
-- Returns 1, or 0 if another process leads.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
