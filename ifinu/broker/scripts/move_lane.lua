#!lua flags=allow-oom
-- Move messages of a lane to the end of their tenant's lanes at other numbers, the oldest first. Those that name the number
-- that they wait for stay.
-- KEYS: queue
-- ARGV: number, tenant, the other numbers as JSON, how many of the oldest to pass over, the most to look at
-- Returns {how many it has looked at, how many it has moved}; nothing moves if one of the numbers is not registered.
local others = cjson.decode(ARGV[3])
for _, other in ipairs(others) do
  if redis.call('SISMEMBER', 'ifinu:numeros', other) == 0 then
    return {0, 0}
  end
end
-- uses: numbers
local lane, passed = KEYS[1] .. ':espera:' .. ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[4])
local messages = redis.call('LRANGE', lane, -passed - tonumber(ARGV[5]), -passed - 1)
local gone, moved = 'moved ' .. text(now), 0
for i = #messages, 1, -1 do
  local _, named, phone = line(messages[i])
  if named ~= ARGV[1] then
    aside(KEYS[1], sticky(others, phone), ARGV[2], messages[i], now, false)
    redis.call('LSET', lane, -passed - 1 - (#messages - i), gone)
    moved = moved + 1
  end
end
if moved > 0 then
  redis.call('LREM', lane, -moved, gone)
  redis.call('DECRBY', KEYS[1] .. ':na_espera', moved)
  forget_empty(KEYS[1], ARGV[1], ARGV[2])
end
return {#messages, moved}
