#!lua flags=allow-oom
-- Set the factor by which the guard slows a number; its gaps grow with the next send.
-- KEYS: number's hash
-- ARGV: factor, 0.1 to 1
-- Returns 1, or 0 if the number is not registered.
if redis.call('HEXISTS', KEYS[1], 'par') == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'fator', ARGV[1])
return 1
