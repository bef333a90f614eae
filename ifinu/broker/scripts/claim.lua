#!lua flags=allow-oom
-- Claim a notification id before its send.
-- KEYS: claim, in flight, opt-outs of the tenant, gateway id seen for the reference, unknown, events,
--       opt-outs of all tenants; then of a number with a pace: the number, the people it wrote to this month and last
-- ARGV: tag, digest of the content ('' if it is not compared), token of the retry ('' for a first message), ttl (ms),
--       id, the phone's pseudonym, data of the event `unknown`, '1' while the instance is held back: then nothing is sent;
--       then of a number with a pace: its name, the tenant, the most reminders that a person gets a day and the least time
--       between two messages to a person (ms), each '' without such a limit
-- Returns {verdict, state before, token, since (ms), started (ms), '1' if sent again before, gateway id seen, now (ms),
--          '1' if a worker died while it sent it}; with a pace also: name of the number that claimed it, '1' if it has not
--          written to this person before, end of the wait for a limit (ms)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local clock = string.format('%.0f', now)
local was = redis.call('HMGET', KEYS[1], 'state', 'content', 'in_flight', 'tag', 'token', 'since', 'started', 'resent', 'cancelled', 'died',
  'letter', 'number')
local state, digest, home, tag, token = was[1], was[2], was[3], was[4], was[5]
local since, started, resent, cancelled, died, letter = was[6], was[7], was[8], was[9], was[10], was[11]
local number, new, ends = was[12] or '', '', ''
local known = state and state ~= 'dead'

local function answer(verdict)
  local seen = verdict == 'look_up' and redis.call('GET', KEYS[4])
  local says = {verdict, state or '', token or ARGV[1], since or '', started or '', resent or '', seen or '', clock, died or ''}
  if KEYS[8] or number ~= '' then
    says[10], says[11], says[12] = number, new, ends
  end
  return says
end

if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return answer('duplicate') -- its lease ran out: the message is on the queue, or another worker's
end
if known and digest and digest ~= '' and ARGV[2] ~= '' and digest ~= ARGV[2] then
  return answer('reused')
end

-- Orphaned: the worker that claimed it died, or gave the message back.
local mine = tag == ARGV[1]
local orphaned = mine or (tag and tag ~= '' and redis.call('HEXISTS', home, tag) == 0)
local expected = token == ARGV[3]

if state == 'cancelled' then
  return answer('cancelled')
elseif state == 'unknown' then
  if not (expected or orphaned) then
    return answer('duplicate')
  end
  redis.call('HSET', KEYS[1], 'in_flight', KEYS[2], 'tag', ARGV[1])
  redis.call('HDEL', KEYS[1], 'letter')
  if started and tonumber(started) > now then -- another Redis took over, with a clock behind: the wait starts again
    started = clock
    redis.call('HSET', KEYS[1], 'started', started)
  end
  return answer('look_up')
elseif state == 'sending' then
  if mine then -- it asks again: the answer was lost, or became too old before the send
    if not resent then
      since = clock
    end
    started = clock
    redis.call('HSET', KEYS[1], 'since', since or clock, 'started', started)
    return answer('go')
  elseif not orphaned then
    return answer('duplicate')
  end
  died = '1'
  redis.call('HSET', KEYS[1], 'state', 'unknown', 'in_flight', KEYS[2], 'tag', ARGV[1], 'died', died)
  redis.call('HDEL', KEYS[1], 'letter')
  redis.call('PERSIST', KEYS[1]) -- if it expired, the id would be sent again
  redis.call('ZADD', KEYS[5], 'NX', since, ARGV[5])
  redis.call('XADD', KEYS[6], '*', 'event', 'unknown', 'id', ARGV[5], 'data', ARGV[7])
  return answer('look_up')
elseif known and not (state == 'waiting' and expected) then
  return answer('duplicate')
end

-- A first message, or the retry that this claim waits for. A refusal from here on changes nothing, so that the message
-- is refused again if its worker dies before it has recorded that.
if cancelled then
  return answer('cancelled')
end
for _, key in ipairs({KEYS[3], KEYS[7]}) do
  local out = redis.call('HGET', key, ARGV[6])
  if out and cjson.decode(out)['confirmation'] ~= ARGV[5] then
    return answer('opted_out')
  end
end
if ARGV[8] == '1' then
  token = ARGV[3]
  return answer('held')
end
local counts = {}
if KEYS[8] then
  local of = redis.call('HMGET', KEYS[8], 'fuso', 'novos', 'grupo', 'conversas')
  local zone = tonumber(of[1] or '') or 0
  local day = math.floor((now + zone) / 86400000)
  local tomorrow = string.format('%.0f', (day + 1) * 86400000 - zone)
  local person = 'ifinu:contato:' .. ARGV[10] .. ':' .. ARGV[6]
  local today = string.format('%s:%d', person, day)
  local new_today = string.format('%s:novos:%d', KEYS[8], day)
  if ARGV[12] ~= '' then
    local last, of_id = string.match(redis.call('GET', person .. ':ultima') or '', '^(%d+) ?(.*)$')
    if last and of_id ~= ARGV[5] and last + ARGV[12] > now then
      token, ends = ARGV[3], string.format('%.0f', last + ARGV[12])
      return answer('pair_gap')
    end
  end
  -- A set of ids, so that the retries of a message count once.
  if ARGV[11] ~= '' then
    if redis.call('SISMEMBER', today, ARGV[5]) == 0 and redis.call('SCARD', today) >= tonumber(ARGV[11]) then
      token, ends = ARGV[3], tomorrow
      return answer('person_cap')
    end
    counts[#counts + 1] = {today, ARGV[5]}
  end
  if redis.call('HEXISTS', KEYS[9], ARGV[6]) == 0 and redis.call('HEXISTS', KEYS[10], ARGV[6]) == 0 then
    new = '1'
    if redis.call('SISMEMBER', new_today, ARGV[6]) == 0 then
      if of[2] and of[2] ~= '' and redis.call('SCARD', new_today) >= tonumber(of[2]) then
        token, ends = ARGV[3], tomorrow
        return answer('new_chats')
      end
      counts[#counts + 1] = {new_today, ARGV[6]}
    end
  end
  -- A conversation at Meta: of all numbers of a portfolio, with a person, for 24 hours. What answers at once is part of one.
  if of[3] and ARGV[12] ~= '' then
    local talks, waits = 'ifinu:grupo:' .. of[3] .. ':conversas', 'ifinu:grupo:' .. of[3] .. ':espera'
    redis.call('ZREMRANGEBYSCORE', talks, '-inf', now - 86400000)
    if not redis.call('ZSCORE', talks, ARGV[6]) then
      local most = tonumber(of[4] or '')
      if most and redis.call('ZCARD', talks) >= most then
        -- Each one that waits is told the end of another conversation, so that they do not all come back for one place.
        redis.call('ZREMRANGEBYSCORE', waits, '-inf', now)
        local before = redis.call('ZRANK', waits, ARGV[6]) or redis.call('ZCARD', waits) -- how many wait before this one
        local place = redis.call('ZCARD', talks) - most + before
        local began = redis.call('ZRANGE', talks, place, place, 'WITHSCORES')[2]
        token, ends = ARGV[3], string.format('%.0f', (began or now) + 86400000)
        redis.call('ZADD', waits, ends, ARGV[6])
        redis.call('PEXPIRE', waits, 90000000)
        return answer('portfolio')
      end
      redis.call('ZADD', talks, clock, ARGV[6])
      redis.call('PEXPIRE', talks, 90000000)
    end
  end
  for _, each in ipairs(counts) do
    redis.call('SADD', each[1], each[2])
    redis.call('PEXPIRE', each[1], 172800000)
  end
  if ARGV[12] ~= '' then -- a second message that is claimed meanwhile keeps its distance, too
    redis.call('SET', person .. ':ultima', clock .. ' ' .. ARGV[5], 'PX', 60000)
  end
  number = ARGV[9]
  redis.call('HSET', KEYS[1], 'number', number, 'person', person, 'counted', ARGV[11] ~= '' and today or '')
end
if number ~= '' and not KEYS[8] then -- its number has no pace any more
  redis.call('HDEL', KEYS[1], 'number', 'person', 'counted')
end
if not known then
  token = ARGV[1]
end
if letter then
  redis.call('HDEL', KEYS[1], 'letter') -- a replay or purge of that dead letter does not concern this send
end
started = clock
if not (known and resent) then -- else the send before this one stays in doubt, and a third must not follow
  if resent or died then
    redis.call('HDEL', KEYS[1], 'resent', 'died')
  end
  since, resent = started, nil
end
redis.call('HSET', KEYS[1], 'state', 'sending', 'content', ARGV[2], 'in_flight', KEYS[2], 'tag', ARGV[1], 'token', token,
  'since', since, 'started', started)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return answer('go')
