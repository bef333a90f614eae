#!lua flags=allow-oom
-- Count a message that was typed on a registered number's phone: for its person it is a message like others.
-- KEYS: number, the people that it wrote to this month
-- ARGV: the phone's pseudonym, the gateway's id of the message, ttl of the people (ms)
-- Returns 1, or 0 if the number is not registered.
local of = redis.call('HMGET', KEYS[1], 'par', 'inquilino', 'fuso')
if not of[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tenant, zone = of[2] or '', tonumber(of[3] or '') or 0
local person = 'ifinu:contato:' .. tenant .. ':' .. ARGV[1]
local today = string.format('%s:%d', person, math.floor((now + zone) / 86400000))
redis.call('SADD', today, ARGV[2])
redis.call('PEXPIRE', today, 172800000)
redis.call('SET', person .. ':ultima', string.format('%.0f', now), 'PX', 60000)
redis.call('HSETNX', KEYS[2], ARGV[1], tenant)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
