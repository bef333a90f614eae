#!lua flags=allow-oom
-- A message whose worker died is started again.
-- KEYS: suspects
-- ARGV: digest of the message
-- Returns how often that was done by now; 0 when it is forgotten.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
