"""Lua scripts that Redis executes atomically for a fleet. Their times are those of Redis, in microseconds since 1970.

The id of a stream entry is `term-number`. Each term is higher than all before it, so that Redis itself, which requires
ascending ids, rejects what a leader of an earlier term still tries to add. Numbers count the rounds of all terms.
"""

from typing import Final

__all__ = ["ACQUIRE_LEASE", "PUBLISH", "RELEASE_LEASE", "RESERVE_REQUEST"]

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

ACQUIRE_LEASE: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: token of this member, duration of the lease in milliseconds, the highest term that
-- this member has seen. Returns the term if this member now holds the lease, or '0' if another one does; the time; and
-- the newest id in the stream.
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
top = top[1] and top[1][1] or '0-0'
local holder = redis.call('GET', KEYS[1])
local term = '0'
if holder == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    term = redis.call('HGET', KEYS[3], 'term')
end
if not holder or not term then
    local last = math.max(tonumber(redis.call('HGET', KEYS[3], 'term') or '0'), tonumber(ARGV[3]))
    last = math.max(last, tonumber(string.match(top, '^%d+')))
    -- Lua counts in floats, which are exact up to here.
    if last >= 9007199254740991 then
        return redis.error_reply('IDTOOHIGH an entry in the stream leaves no room for the next term')
    end
    term = string.format('%.0f', math.max(now, last + 1))
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    redis.call('HSET', KEYS[3], 'term', term)
end
return {term, string.format('%.0f', now), top}
"""
)

PUBLISH: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: 1 token of this member, 2 duration of the lease in milliseconds, 3 term, 4 maximum
-- length of the stream; 5 number and 6 time of the last round that this member has read, and 7 time of the last one
-- with rates; 8 microseconds without rates after which the round states the gap; 9 seconds between two polls, and
-- 10 seconds to the next poll; 11 the rates, or '' if the poll failed.
-- Returns 1, or 0 if this member no longer holds the lease for this term.
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HGET', KEYS[3], 'term') ~= ARGV[3] then
    return 0
end
-- If Redis lost its data, or its clock went back, the member knows higher values.
local function highest(field, seen)
    return math.max(tonumber(redis.call('HGET', KEYS[3], field) or '0'), tonumber(seen))
end
local number = string.format('%.0f', highest('number', ARGV[5]) + 1)
local at = math.max(now, highest('at', ARGV[6]) + 1)
local good = highest('good', ARGV[7])
local gap = 0
local id = ARGV[3] .. '-' .. number
if ARGV[11] ~= '' then
    if good > 0 and at - good > tonumber(ARGV[8]) then gap = at - good end
    redis.call('HSET', KEYS[3], 'good', string.format('%.0f', at), 'id', id)
end
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], id, 'version', '1', 'at', string.format('%.0f', at),
    'gap', string.format('%.0f', gap), 'every', ARGV[9], 'next', ARGV[10], 'rates', ARGV[11])
if type(added) == 'table' and added.err then
    -- The stream contains a foreign entry with a higher id. Release the lease: the next term will exceed that id.
    redis.call('DEL', KEYS[1])
    return 0
end
redis.call('HSET', KEYS[3], 'number', number, 'at', string.format('%.0f', at))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
-- Let the keys of a fleet that no longer runs expire after a week.
redis.call('EXPIRE', KEYS[2], 604800)
redis.call('EXPIRE', KEYS[3], 604800)
return 1
"""
)

RELEASE_LEASE: Final = """
-- KEYS: lease. ARGV: token of this member.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0
"""

RESERVE_REQUEST: Final = (
    _NOW
    + """
-- A rate limiter (GCRA). KEYS: bucket. ARGV: microseconds between two requests, and how many microseconds earlier than
-- that a burst may start. Reserves the next request; returns the microseconds to wait before sending it.
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local after = due + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1000)
return string.format('%.0f', math.max(0, due - tonumber(ARGV[2]) - now))
"""
)
