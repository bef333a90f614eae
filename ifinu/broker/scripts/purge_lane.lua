#!lua flags=allow-oom
-- Set the messages of a lane aside for `purge`, in one step.
-- KEYS: queue, where they are set aside (a list)
-- ARGV: number, tenant
-- Returns 1, or 0 while messages of another purge are still there.
local lane = KEYS[1] .. ':espera:' .. ARGV[1] .. ':' .. ARGV[2]
if redis.call('EXISTS', lane) == 1 then
  if redis.call('RENAMENX', lane, KEYS[2]) == 0 then
    return 0
  end
  redis.call('DECRBY', KEYS[1] .. ':na_espera', redis.call('LLEN', KEYS[2]))
end
-- uses: numbers
forget_empty(KEYS[1], ARGV[1], ARGV[2])
return 1
