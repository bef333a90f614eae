#!lua flags=allow-oom
-- Return messages to the head of the queue, in their old order; those that kept a number's pace to the front of its lanes.
-- KEYS: ready, in flight, deadlines, suspects (absent if no worker died with them)
-- ARGV: for each message, the oldest first: its tag; '1' if it may have been sent, as when a worker died with it, else ''
-- Returns the number that were still in flight.
local back -- returns the message of a tag to its lane, if it was taken for a number
if redis.call('EXISTS', KEYS[2] .. ':numeros') == 1 then
  -- uses: numbers
  back = function(tag, message, may_be_sent)
    return to_lane(KEYS[1], tag, message, may_be_sent)
  end
end

local returned = 0
for i = #ARGV - 1, 1, -2 do
  local message = redis.call('HGET', KEYS[2], ARGV[i])
  if message then
    if not (back and back(ARGV[i], message, ARGV[i + 1] == '1')) then
      redis.call('RPUSH', KEYS[1], message)
    end
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
    if KEYS[4] then
      redis.call('HSETNX', KEYS[4], redis.sha1hex(message), 0)
      redis.call('EXPIRE', KEYS[4], 3600)
    end
    returned = returned + 1
  end
end
return returned
