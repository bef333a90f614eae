#!lua flags=allow-oom
-- Return messages of dead workers, and due messages, to the queue; those that kept a number's pace to the front of its lanes.
-- KEYS: ready, delayed, in flight, deadlines, suspects
-- ARGV: the most messages of each, a random number from 0 to 1 (absent if the sweeper knows no numbers)
-- Returns {messages of dead workers, due messages}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
if #due > 0 then
  redis.call('LPUSH', KEYS[1], unpack(due)) -- as in fetch
  redis.call('ZREM', KEYS[2], unpack(due))
end

local expired = redis.call('ZRANGE', KEYS[4], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
local back -- as in give_back
if #expired > 0 and redis.call('EXISTS', KEYS[3] .. ':numeros') == 1 then
  -- uses: numbers
  back = function(tag, message)
    return to_lane(KEYS[1], tag, message, true, ARGV[2]) -- it may have been sent before its worker died
  end
end
local reaped = 0
for i = #expired, 1, -1 do
  local message = redis.call('HGET', KEYS[3], expired[i])
  if message then
    if not (back and back(expired[i], message)) then
      redis.call('RPUSH', KEYS[1], message)
    end
    redis.call('HDEL', KEYS[3], expired[i])
    -- Its worker may have died because of it: from here on its starts are counted.
    redis.call('HSETNX', KEYS[5], redis.sha1hex(message), 0)
    redis.call('EXPIRE', KEYS[5], 3600)
    reaped = reaped + 1
  end
end
if #expired > 0 then
  redis.call('ZREM', KEYS[4], unpack(expired))
end
return {reaped, #due}
