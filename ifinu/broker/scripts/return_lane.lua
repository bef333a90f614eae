#!lua flags=allow-oom
-- Return messages of a lane to the end of their queue, the oldest first.
-- KEYS: queue
-- ARGV: number, tenant, the most to return
-- Returns how many.
-- uses: numbers
local lane, returned = KEYS[1] .. ':espera:' .. ARGV[1] .. ':' .. ARGV[2], 0
while returned < tonumber(ARGV[3]) and redis.call('LMOVE', lane, KEYS[1], 'RIGHT', 'LEFT') do
  returned = returned + 1
end
redis.call('DECRBY', KEYS[1] .. ':na_espera', returned)
forget_empty(KEYS[1], ARGV[1], ARGV[2])
return returned
