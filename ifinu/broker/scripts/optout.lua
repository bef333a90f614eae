#!lua flags=allow-oom
-- Opt a person out of tenants, and record the reply that asks for it. It takes some hundred bytes, and runs even when
-- Redis is full.
-- KEYS: events, open replies, replies not looked up in the ledger yet, opt-outs of all tenants, queue of the
--       confirmation (events if none is sent), opt-outs of each tenant
-- ARGV: pseudonym, masked phone, source, when (epoch ms, or '' for now), id of the confirmation ('' for none), the
--       confirmation, id of the reply ('' for none), its record ('' when it is not open any more), '1' if these opt-outs
--       are valid until the reply is settled, limit of open replies ('' for none), data of the event that lifts the
--       opt-out valid until then, data of the event of each tenant
-- Returns {number of new opt-outs, 1 if the reply is new}. The confirmation is sent only if an opt-out is new.
redis.call('XLEN', KEYS[1]) -- keys of a wrong type fail here, before anything is written
redis.call('HLEN', KEYS[2])
redis.call('SCARD', KEYS[3])
if ARGV[6] ~= '' then
  redis.call('LLEN', KEYS[5])
end
for i = 6, #KEYS do
  redis.call('HLEN', KEYS[i])
end
local at = tonumber(ARGV[4])
if not at then
  local time = redis.call('TIME')
  at = time[1] * 1000 + math.floor(time[2] / 1000)
end
local confirmation, answer, record = ARGV[5], ARGV[7], ARGV[8]
local stands = ARGV[9] == '1' and answer or nil
if answer ~= '' and not stands then
  local stood = redis.call('HGET', KEYS[4], ARGV[1])
  stood = stood and cjson.decode(stood)
  if stood and stood.open == answer and ARGV[11] ~= '' then
    redis.call('HDEL', KEYS[4], ARGV[1])
    redis.call('XADD', KEYS[1], '*', 'event', 'optout', 'id', '', 'data', ARGV[11])
    at, confirmation = stood.at, stood.confirmation -- the confirmation may not be sent yet
  end
end
local entry = cjson.encode({at = at, phone = ARGV[2], source = ARGV[3], confirmation = confirmation, open = stands})
local new = 0
for i = 6, #KEYS do
  if redis.call('HSETNX', KEYS[i], ARGV[1], entry) == 1 then
    redis.call('XADD', KEYS[1], '*', 'event', 'optout', 'id', '', 'data', ARGV[i + 6])
    new = new + 1
  end
end
if new > 0 and ARGV[6] ~= '' then
  redis.call('LPUSH', KEYS[5], ARGV[6])
end
local opened = 0
if answer ~= '' and record == '' then
  redis.call('HDEL', KEYS[2], answer)
  redis.call('SREM', KEYS[3], answer)
elseif answer ~= '' and redis.call('HEXISTS', KEYS[2], answer) == 1 then
  redis.call('HSET', KEYS[2], answer, record)
elseif answer ~= '' and (ARGV[10] == '' or redis.call('HLEN', KEYS[2]) < tonumber(ARGV[10])) then
  redis.call('HSET', KEYS[2], answer, record)
  redis.call('SADD', KEYS[3], answer)
  opened = 1
end
return {new, opened}
