#!lua flags=allow-oom
-- Take up to `want` messages, recording each as in flight with a lease, in one step.
-- KEYS: per queue, in the order of service: ready, delayed, in flight, deadlines, dead, paused, suspects
-- ARGV: want, lease (ms), tag prefix
-- Returns {ms until the next due message or -1, 1 if a queue is paused, then per message: queue index, tag, bytes,
-- digest if a worker may have died because of it, else ''}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local want, lease, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local out, taken, soonest, paused = {-1, 0}, 0, -1, 0

for q = 1, #KEYS, 7 do
  local ready, delayed, in_flight, deadlines = KEYS[q], KEYS[q + 1], KEYS[q + 2], KEYS[q + 3]
  -- Due messages join the queue as new ones do, the earliest first: so they keep their order, overtake no message that
  -- came before them, and count in LLEN.
  local next_due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if next_due[2] and tonumber(next_due[2]) <= now then
    local due = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, 200)
    redis.call('LPUSH', ready, unpack(due))
    redis.call('ZREM', delayed, unpack(due))
    next_due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  end
  if next_due[2] and (soonest < 0 or next_due[2] - now < soonest) then
    soonest = math.max(1, math.ceil(next_due[2] - now))
  end

  if redis.call('EXISTS', KEYS[q + 5]) == 1 then
    paused = 1
  elseif taken < want and redis.call('LLEN', ready) > 0 then
    -- Keys of a wrong type fail here, before a message has left its list.
    redis.call('HLEN', in_flight)
    redis.call('ZCARD', deadlines)
    local some_suspect = redis.call('HLEN', KEYS[q + 6]) > 0
    local messages = redis.call('RPOP', ready, want - taken)
    local held, leased = {}, {}
    for i, message in ipairs(messages) do
      -- Padded, since equal deadlines are swept in the order of their tags.
      local tag = string.format('%s%03d', prefix, taken + i)
      held[#held + 1] = tag
      held[#held + 1] = message
      leased[#leased + 1] = now + lease
      leased[#leased + 1] = tag
      out[#out + 1] = (q - 1) / 7
      out[#out + 1] = tag
      out[#out + 1] = message
      local digest = some_suspect and redis.sha1hex(message)
      out[#out + 1] = digest and redis.call('HEXISTS', KEYS[q + 6], digest) == 1 and digest or ''
    end
    redis.call('HSET', in_flight, unpack(held))
    redis.call('ZADD', deadlines, unpack(leased))
    taken = taken + #messages
  end
end
out[1], out[2] = soonest, paused
return out
