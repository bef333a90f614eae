#!lua flags=allow-oom
-- Write a part of the registry's copy: numbers, tenants, what is no longer registered, and last its generation.
-- KEYS: lock, numbers, tenants, generation; the keys of the numbers and tenants named in the part
-- ARGV: the lock's token, ttl of the lock (ms), the part as JSON:
--   numbers: list of {name, key, set, clear, fresh, counted}: field-value pairs to set, fields to remove, and pairs to set
--            only if the number has no hash; counted: {day, messages, hour, messages}, or nothing. A count in Redis that
--            is higher stays, since the ledger is behind it
--   tenants: list of {name, key, set}
--   gone: list of {set, name, key}: what is no longer registered
--   generation: to set; '' to delete it; nothing: more parts follow
-- Returns 1, or 0 if another process has the lock: it writes the whole copy.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local part = cjson.decode(ARGV[3])
for _, number in ipairs(part.numbers) do
  local is_new = redis.call('EXISTS', number.key) == 0
  redis.call('HSET', number.key, unpack(number.set))
  if #number.clear > 0 then
    redis.call('HDEL', number.key, unpack(number.clear))
  end
  if is_new then
    redis.call('HSET', number.key, unpack(number.fresh))
  end
  if #number.counted > 0 then
    local day, today, hour, this_hour = unpack(number.counted)
    local known = redis.call('HMGET', number.key, 'dia', 'hoje', 'hora', 'nesta_hora')
    if known[1] == day then
      today = string.format('%d', math.max(tonumber(today), tonumber(known[2] or 0)))
    end
    if known[3] == hour then
      this_hour = string.format('%d', math.max(tonumber(this_hour), tonumber(known[4] or 0)))
    end
    redis.call('HSET', number.key, 'dia', day, 'hoje', today, 'hora', hour, 'nesta_hora', this_hour)
  end
  redis.call('SADD', KEYS[2], number.name)
end
for _, tenant in ipairs(part.tenants) do
  redis.call('HSET', tenant.key, unpack(tenant.set))
  redis.call('SADD', KEYS[3], tenant.name)
end
for _, one in ipairs(part.gone) do
  redis.call('DEL', one.key, one.key .. ':voo') -- what is in flight must not count for a later number of this name
  redis.call('SREM', one.set, one.name)
end
if part.generation == '' then
  redis.call('DEL', KEYS[4])
elseif part.generation then
  redis.call('SET', KEYS[4], part.generation)
end
return 1
