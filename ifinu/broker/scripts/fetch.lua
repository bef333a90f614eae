#!lua flags=allow-oom
-- Take up to `want` messages, recording each as in flight with a lease, in one step.
-- KEYS: per queue, in the order of service: ready, delayed, in flight, deadlines, dead, paused, suspects
-- ARGV: want, lease (ms), tag prefix, generation of the directory of numbers that the worker has (absent or '': none); and
--       with one: a random number from 0 to 1, the most messages to look at, the instance of messages that name none
-- Returns {ms until the next due message or turn of a number, or -1; 1 if a queue is paused; then per message: queue index,
-- tag, bytes, mark}. The mark is its digest if a worker may have died because of it, else ''; then, after a space, the
-- number whose pace it keeps, if any. The first is -2, and nothing was taken, if the worker's directory is not Redis'.
local loaded = redis.call('GET', 'ifinu:numeros:geracao') or ''
if loaded ~= (ARGV[4] or '') then
  return {-2, 0}
end
local paced = loaded ~= '' and redis.call('SCARD', 'ifinu:numeros') > 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local want, lease, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local out, taken, soonest, paused = {-1, 0}, 0, -1, 0

local function sooner(at)
  if at and (soonest < 0 or at - now < soonest) then
    soonest = math.max(1, math.ceil(at - now))
  end
end

-- Keys of a wrong type fail here, before a message has left its list.
local some_suspect
local function check(q)
  redis.call('HLEN', KEYS[q + 2])
  redis.call('ZCARD', KEYS[q + 3])
  some_suspect = redis.call('HLEN', KEYS[q + 6]) > 0
end

-- Record messages of a queue as in flight, for a number or nil.
local function take(q, messages, number)
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
    local mark = digest and redis.call('HEXISTS', KEYS[q + 6], digest) == 1 and digest or ''
    out[#out + 1] = number and mark .. ' ' .. number or mark
  end
  redis.call('HSET', KEYS[q + 2], unpack(held))
  redis.call('ZADD', KEYS[q + 3], unpack(leased))
  taken = taken + #messages
end

local open = {} -- the queues that are not paused
for q = 1, #KEYS, 7 do
  -- Due messages join the queue as new ones do, the earliest first: so they keep their order, overtake no message that
  -- came before them, and count in LLEN.
  local next_due = redis.call('ZRANGE', KEYS[q + 1], 0, 0, 'WITHSCORES')
  if next_due[2] and tonumber(next_due[2]) <= now then
    local due = redis.call('ZRANGE', KEYS[q + 1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 200)
    redis.call('LPUSH', KEYS[q], unpack(due))
    redis.call('ZREM', KEYS[q + 1], unpack(due))
    next_due = redis.call('ZRANGE', KEYS[q + 1], 0, 0, 'WITHSCORES')
  end
  sooner(next_due[2])

  if redis.call('EXISTS', KEYS[q + 5]) == 1 then
    paused = 1
  elseif paced then
    open[#open + 1] = q
  elseif taken < want and redis.call('LLEN', KEYS[q]) > 0 then
    check(q)
    take(q, redis.call('RPOP', KEYS[q], want - taken), nil)
  end
end

if paced then
  -- uses: numbers
  local u, budget, default = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
  local registered, numbers_of, waiting = {}, {}, {} -- what was asked in this call

  local function is_registered(name)
    if registered[name] == nil then
      registered[name] = redis.call('SISMEMBER', 'ifinu:numeros', name) == 1
    end
    return registered[name]
  end

  -- The numbers of a tenant that are registered and neither banned nor held for long, and whether it uses them in turns.
  local function numbers(tenant)
    if not numbers_of[tenant] then
      local of = redis.call('HMGET', 'ifinu:inquilino:' .. tenant, 'numeros', 'politica')
      local found, closed = {in_turns = of[2] == 'rodizio'}, nil
      for _, name in ipairs(of[1] and cjson.decode(of[1]) or {}) do
        if is_registered(name) then
          local is = redis.call('HMGET', 'ifinu:numero:' .. name, 'motivo', 'desviada')
          if is[1] == 'banido' or is[2] then
            closed = closed or name
          else
            found[#found + 1] = name
          end
        end
      end
      if #found == 0 then
        found[1] = closed -- what it sends waits
      end
      numbers_of[tenant] = found
    end
    return numbers_of[tenant]
  end

  -- The number that a message is sent from, or nil if that has no pace; and the message's tenant.
  local function route(message)
    local tenant, named, phone = line(message)
    if named ~= '' then
      return is_registered(named) and named or nil, tenant
    end
    local among = tenant ~= '' and numbers(tenant) or {}
    if #among > 1 and among.in_turns then
      return among[redis.call('HINCRBY', 'ifinu:inquilino:' .. tenant, 'vez', 1) % #among + 1], tenant
    end
    local number = sticky(among, phone)
    if not number and is_registered(default) then
      number = default
    end
    return number, tenant
  end

  local function send(q, message, number)
    if number then
      occupy(KEYS[q], number, string.format('%s%03d', prefix, taken + 1))
    end
    take(q, {message}, number)
  end

  -- From the lanes: one message of each number whose turn has come, again and again.
  local function from_lanes(q, most)
    local queue, turns = KEYS[q], KEYS[q] .. ':turnos'
    while taken < most and budget > 0 do
      local ready = redis.call('ZRANGE', turns, '-inf', now, 'BYSCORE', 'LIMIT', 0, math.min(most - taken, budget))
      if #ready == 0 then
        break
      end
      for _, number in ipairs(ready) do
        budget = budget - 1
        local at = opens(number, lease)
        if at == now then
          local ring = 'ifinu:numero:' .. number .. ':roda:' .. queue
          local tenant = redis.call('LMOVE', ring, ring, 'RIGHT', 'LEFT') or ''
          local lane = queue .. ':espera:' .. number .. ':' .. tenant
          local message = redis.call('LINDEX', lane, -1)
          if message then
            send(q, message, number)
            redis.call('RPOP', lane)
            redis.call('DECR', queue .. ':na_espera')
          end
          forget_empty(queue, number, tenant)
          at = opens(number, lease)
        end
        redis.call('ZADD', turns, 'XX', at, number)
      end
    end
  end

  local function place(q, message)
    local queue, number, tenant = KEYS[q], route(message)
    if number and not waiting[queue .. number] then
      local waits = redis.call('ZSCORE', queue .. ':turnos', number)
      local at = waits or opens(number, lease)
      if not waits and at == now then
        return send(q, message, number)
      end
      aside(queue, number, tenant, message, at, false)
      waiting[queue .. number] = true
    elseif number then
      aside(queue, number, tenant, message, now, false)
    else
      send(q, message, nil)
    end
  end

  -- From the list, past the messages that have to wait for their number.
  local function from_list(q, most)
    while taken < most and budget > 0 do
      local messages = redis.call('RPOP', KEYS[q], math.min(most - taken, budget))
      if not messages then
        break
      end
      for i, message in ipairs(messages) do
        budget = budget - 1
        local placed, failure = pcall(place, q, message)
        if not placed then -- a key is of a wrong type
          for k = #messages, i, -1 do
            redis.call('RPUSH', KEYS[q], messages[k])
          end
          error(failure)
        end
      end
    end
  end

  local function serve(q, most)
    check(q)
    from_lanes(q, most)
    from_list(q, most)
  end

  -- One place in ten is tried from the lowest queue first, so that it is served though the others never end.
  if #open > 1 then
    serve(open[#open], math.floor(want / 10 + u))
  end
  for _, q in ipairs(open) do
    serve(q, want)
  end
  for _, q in ipairs(open) do
    sooner(redis.call('ZRANGE', KEYS[q] .. ':turnos', 0, 0, 'WITHSCORES')[2])
  end
end
out[1], out[2] = soonest, paused
return out
