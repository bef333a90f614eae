#!lua flags=allow-oom
-- Count a start of a message whose worker died.
-- KEYS: suspects
-- ARGV: digest of the message
-- Returns the number of starts so far; 0 if it is not suspect any more.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
return redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
