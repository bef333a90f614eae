import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import phonenumbers.timezone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifinu import phone as phone_module
from ifinu import window
from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.window import Windows, doubt, expires_at, true_from

SP, RJ, AM, AC, MT = "+5511987654321", "+5521987654321", "+5592987654321", "+5568987654321", "+5565987654321"
OFFICE = "mon-fri 08:00-20:00, sat 09:00-13:00"


def utc(text):
    """`2026-11-02 08:00` in UTC; 2026-11-02 is a Monday."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def written(tmp_path, document):
    file = tmp_path / "windows.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


@pytest.mark.parametrize(
    ("spec", "phone", "now", "opens"),
    [
        # Brasília is three hours behind UTC.
        (OFFICE, SP, "2026-11-02 10:59:59", "2026-11-02 11:00"),
        (OFFICE, SP, "2026-11-02 11:00", None),
        (OFFICE, SP, "2026-11-02 22:59:59.999999", None),
        (OFFICE, SP, "2026-11-02 23:00", "2026-11-03 11:00"),
        (OFFICE, SP, "2026-11-06 23:00", "2026-11-07 12:00"),  # Saturday opens later
        (OFFICE, SP, "2026-11-07 16:00", "2026-11-09 11:00"),  # Sunday is closed
        # The same instant in the phone's time zone.
        ("daily 08:00-20:00", SP, "2026-11-02 11:30", None),
        ("daily 08:00-20:00", AM, "2026-11-02 11:30", "2026-11-02 12:00"),
        ("daily 08:00-20:00", MT, "2026-11-02 11:30", "2026-11-02 12:00"),
        ("daily 08:00-20:00", AC, "2026-11-02 11:30", "2026-11-02 13:00"),
        ("daily 08:00-20:00", SP, "2026-11-02 23:30", "2026-11-03 11:00"),
        ("diário 08:00-20:00", SP, "2026-11-02 23:30", "2026-11-03 11:00"),
        ("sempre", SP, "2026-11-02 23:30", None),
        ("daily 08:00-20:00", AC, "2026-11-03 00:30", None),  # still Monday there
        # Every way to write it.
        (None, SP, "2026-11-08 05:00", None),
        ("always", SP, "2026-11-08 05:00", None),
        (" Always ", SP, "2026-11-08 05:00", None),
        ("seg-sex 08:00-20:00, SÁB 09:00-13:00", SP, "2026-11-06 23:00", "2026-11-07 12:00"),
        ("sab 9:00-13:00,dom 10:00-12:00", SP, "2026-11-07 16:00", "2026-11-08 13:00"),
        ("sex-seg 08:00-20:00", SP, "2026-11-02 12:00", None),  # over the week's end
        ("sex-seg 08:00-20:00", SP, "2026-11-03 12:00", "2026-11-06 11:00"),
        ("mon 08:00 - 12:00, mon 14:00-18:00", SP, "2026-11-02 15:30", "2026-11-02 17:00"),
        ("mon 14:00-18:00, mon 08:00-12:00", SP, "2026-11-02 21:00", "2026-11-09 11:00"),
        ("mon 08:00-18:00, mon 09:00-10:00", SP, "2026-11-02 15:00", None),  # one within the other
        ("mon 08:00-12:00, mon 12:00-14:00", SP, "2026-11-02 15:00", None),  # one after the other
        ("daily 18:00-24:00", SP, "2026-11-03 02:59", None),
        ("daily 18:00-24:00", SP, "2026-11-03 03:00", "2026-11-03 21:00"),
        ("fri 20:00-24:00, sat 00:00-02:00", SP, "2026-11-07 03:00", None),
        ("daily 00:00-24:00", SP, "2026-11-03 03:00", None),
    ],
)
def test_a_message_may_go_while_its_window_is_open(spec, phone, now, opens):
    found = Windows.load(spec, None).opens_at(utc(now), phone=phone, tenant=None)
    assert found == (opens and utc(opens))
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize(
    ("phone", "tenant", "now", "opens"),
    [
        (RJ, None, "2026-11-02 10:00", "2026-11-02 11:00"),  # the default
        (RJ, "u9", "2026-11-02 10:00", "2026-11-02 11:00"),  # a tenant without its own
        (RJ, "u1", "2026-11-02 10:00", None),  # its own, in place of the default
        (RJ, "u1", "2026-11-02 16:00", "2026-11-03 10:00"),
        (SP, "u1", "2026-11-02 10:00", "2026-11-02 12:00"),  # its own and the state's
        (SP, "u1", "2026-11-02 15:30", "2026-11-03 12:00"),  # its own ends first
        (SP, None, "2026-11-02 22:00", "2026-11-03 12:00"),  # the state's ends first
        (SP, None, "2026-11-06 22:00", "2026-11-09 12:00"),  # the state's has no weekend
        (AC, "u1", "2026-11-02 16:00", None),  # by the clock there
    ],
)
def test_tenant_and_state_have_both_to_be_open(tmp_path, phone, tenant, now, opens):
    document = {
        "default": "daily 08:00-20:00",
        "tenants": {"u1": "daily 07:00-12:00"},
        "states": {"SP": "mon-fri 09:00-19:00"},
    }
    windows = Windows.load("mon 01:00-02:00", written(tmp_path, document))  # the file's default wins
    assert windows.opens_at(utc(now), phone=phone, tenant=tenant) == (opens and utc(opens))


def test_a_file_without_a_default_leaves_the_one_that_is_set(tmp_path):
    windows = Windows.load("daily 08:00-20:00", written(tmp_path, {"tenants": {"u1": "always"}}))
    assert windows.opens_at(utc("2026-11-02 10:00"), phone=SP, tenant=None) == utc("2026-11-02 11:00")
    assert windows.opens_at(utc("2026-11-02 10:00"), phone=SP, tenant="u1") is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "'' is no window; write 'mon-fri 08:00-20:00', several with commas, 'always', 'lei-sp' or 'comercial'"),
        ("mon-fri", "'mon-fri' is no window"),
        ("08:00-20:00", "'08:00-20:00' is no window"),
        ("mon-fri 8-20", "'mon-fri 8-20' is no window"),
        ("daily 08:00-20:00,", "'' is no window"),
        ("always, sat 09:00-13:00", "'always' is no window"),
        (
            "lundi 08:00-20:00",
            "'lundi 08:00-20:00' names no day; write daily, or mon, tue, wed, thu, fri, sat, sun",
        ),
        ("mon- 08:00-20:00", "names no day"),
        ("mon-tue-wed 08:00-20:00", "names no day"),
        ("mon 08:00-24:01", "has a time that no clock shows"),
        ("mon 08:60-20:00", "has a time that no clock shows"),
        ("mon 08:00-08:00", "ends before it begins"),
        ("fri 20:00-02:00", "past midnight it is two: 'fri 20:00-24:00, sat 00:00-02:00'"),
    ],
)
def test_a_malformed_window_is_refused_with_its_place(tmp_path, spec, reason):
    with pytest.raises(ConfigurationError) as caught:
        Windows.load(spec, None)
    assert str(caught.value).startswith("IFINU_SENDING_WINDOW: ")
    assert reason in str(caught.value)
    file = written(tmp_path, {"tenants": {"u1": spec}})
    with pytest.raises(ConfigurationError) as caught:
        Windows.load(None, file)
    assert str(caught.value).startswith(f"{file}: tenants.u1: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "is not JSON in UTF-8"),
        ("[" * 100_000, "is not JSON in UTF-8"),
        ([], "must be a JSON object with default, tenants, states, holidays"),
        ({"default": "always", "tenant": {}}, "tenant: no such key; there are default, tenants, states, holidays"),
        ({"holidays": ["2026-12-24"]}, 'holidays: must be an object such as {"BR": ["2026-12-24", "12-31"]}'),
        ({"holidays": {"XX": []}}, "holidays.XX: no such state; write it as SP, AM and so on, or BR for all"),
        ({"holidays": {"SP": "01-25"}}, 'holidays.SP: must be a list of days such as "2026-12-24"'),
        ({"holidays": {"SP": ["25/01"]}}, "holidays.SP: '25/01' is not in the calendar; write 2026-12-24, or 12-24"),
        ({"holidays": {"BR": ["2026-02-29"]}}, "holidays.BR: '2026-02-29' is not in the calendar"),
        ({"holidays": {"BR": ["13-01"]}}, "holidays.BR: '13-01' is not in the calendar"),
        ({"holidays": {"BR": [20261224]}}, "holidays.BR: 20261224 is not in the calendar"),
        ({"default": 8}, "default: must be a text such as 'mon-fri 08:00-20:00'"),
        ({"tenants": "always"}, "tenants: must be an object of windows"),
        ({"states": {"SP": None}}, "states.SP: must be a text"),
        ({"states": {"XX": "always"}}, "states.XX: no such state; write it as SP, AM and so on"),
        ({"states": {"sp": "always"}}, "states.sp: no such state"),
        (
            {"default": "daily 08:00-12:00", "states": {"SP": "daily 12:00-18:00"}},
            "default and states.SP are never open together: nothing would ever be sent",
        ),
        (
            {"tenants": {"u1": "sun 08:00-20:00"}, "states": {"AM": "mon-sat 08:00-20:00"}},
            "tenants.u1 and states.AM are never open together",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(tmp_path, document, reason):
    file = written(tmp_path, document)
    with pytest.raises(ConfigurationError) as caught:
        Windows.load(None, file)
    assert str(caught.value).startswith(f"{file}: {reason}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: None, "No such file or directory"),
        (lambda file: file.mkdir(), "Is a directory"),
        (lambda file: file.write_bytes(b'{"default": "s\xe1b"}'), "is not JSON in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, make, reason):
    file = tmp_path / "windows.json"
    make(file)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Windows.load(None, file)
    assert str(caught.value).startswith(f"{file}: ")


# -- holidays


@pytest.mark.parametrize(
    ("spec", "rest", "phone", "now", "opens"),
    [
        # Christmas 2026 is a Friday.
        (OFFICE, True, SP, "2026-12-24 23:00", "2026-12-26 12:00"),
        (OFFICE, False, SP, "2026-12-24 23:00", "2026-12-25 11:00"),
        (OFFICE, True, SP, "2026-12-25 12:00", "2026-12-26 12:00"),
        (None, True, SP, "2026-12-25 12:00", "2026-12-26 03:00"),  # no window: closed on that day alone
        (None, True, SP, "2026-12-25 02:59", None),  # still Christmas Eve
        (None, False, SP, "2026-12-25 12:00", None),
        (None, True, AC, "2026-12-26 04:59", "2026-12-26 05:00"),  # by the clock there
        ("mon-fri 08:00-20:00", True, SP, "2026-02-13 23:00", "2026-02-18 11:00"),  # Carnival
        ("mon-fri 08:00-20:00", True, SP, "2026-07-09 12:00", "2026-07-10 11:00"),  # the state's own
        ("mon-fri 08:00-20:00", True, RJ, "2026-07-09 12:00", None),
        ("fri 08:00-20:00", True, SP, "2026-12-24 12:00", "2027-01-08 11:00"),  # 25 December and 1 January
        # São Paulo's law, with holidays set or not.
        ("lei-sp", False, SP, "2026-12-24 23:00", "2026-12-26 11:00"),
        ("lei-sp", False, SP, "2026-11-07 16:59", None),
        ("lei-sp", False, SP, "2026-11-07 17:00", "2026-11-09 11:00"),
        (" Lei-SP ", True, SP, "2026-11-02 12:00", "2026-11-03 11:00"),  # Finados
    ],
)
def test_nothing_is_sent_on_a_holiday_if_so_configured(spec, rest, phone, now, opens):
    found = Windows.load(spec, None, rest=rest).opens_at(utc(now), phone=phone, tenant=None)
    assert found == (opens and utc(opens))


@pytest.mark.parametrize(
    ("phone", "now", "opens"),
    [
        (SP, "2026-12-28 12:00", "2026-12-29 11:00"),
        (RJ, "2026-12-28 12:00", "2026-12-29 11:00"),
        (SP, "2027-12-28 12:00", None),  # of one year
        (SP, "2026-12-31 12:00", "2027-01-01 11:00"),
        (RJ, "2031-12-31 12:00", "2032-01-01 11:00"),  # of each year
        (SP, "2027-01-25 12:00", "2027-01-26 11:00"),
        (RJ, "2027-01-25 12:00", None),  # of another state
        (SP, "2026-12-25 12:00", None),  # Christmas was not asked for
    ],
)
def test_a_file_names_further_days_on_which_nothing_is_sent(tmp_path, phone, now, opens):
    document = {"default": "daily 08:00-20:00", "holidays": {"BR": ["2026-12-28", "12-31"], "SP": ["01-25"]}}
    found = Windows.load(None, written(tmp_path, document)).opens_at(utc(now), phone=phone, tenant=None)
    assert found == (opens and utc(opens))


def test_a_state_under_its_law_rests_on_holidays_and_another_does_not(tmp_path):
    windows = Windows.load("daily 08:00-20:00", written(tmp_path, {"states": {"SP": "lei-sp"}}))
    assert windows.opens_at(utc("2026-12-25 12:00"), phone=SP, tenant=None) == utc("2026-12-26 11:00")
    assert windows.opens_at(utc("2026-12-25 12:00"), phone=RJ, tenant=None) is None


def test_a_window_closed_for_more_than_a_year_is_checked_again_after_a_year(tmp_path):
    days = [f"{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 32)]
    possible = [day for day in days if day not in ("02-30", "02-31", "04-31", "06-31", "09-31", "11-31")]
    windows = Windows.load(None, written(tmp_path, {"holidays": {"BR": possible}}))
    assert windows.opens_at(utc("2026-11-02 12:00"), phone=SP, tenant=None) == utc("2027-12-07 03:00")


# -- compared with a slow and obvious implementation

_RANGE = st.tuples(st.integers(0, 1439), st.integers(1, 1440)).filter(lambda hours: hours[0] < hours[1])
_RANGES = st.lists(st.tuples(st.integers(0, 6), _RANGE), min_size=1, max_size=6)
_SECONDS = st.floats(0, 365 * 86_400, exclude_max=True)
_NOW = _SECONDS.map(lambda s: utc("2026-01-01 00:00") + timedelta(seconds=s))
_PHONES = st.sampled_from([SP, AM, AC])
_ZONES = {SP: "America/Sao_Paulo", AM: "America/Manaus", AC: "America/Rio_Branco"}


def spec_of(ranges):
    def clock(minutes):
        return f"{minutes // 60:02}:{minutes % 60:02}"

    return ", ".join(f"{window._ENGLISH[day]} {clock(start)}-{clock(end)}" for day, (start, end) in ranges)


def is_open(ranges, instant, phone):
    """Whether the window is open by the local clock."""
    wall = instant.astimezone(ZoneInfo(_ZONES[phone]))
    minute = wall.hour * 60 + wall.minute
    return any(day == wall.weekday() and start <= minute < end for day, (start, end) in ranges)


@settings(deadline=None, max_examples=40)
@given(_RANGES, _NOW, _PHONES)
def test_it_opens_at_the_first_minute_at_which_the_clock_says_so(ranges, now, phone):
    opens = Windows.load(spec_of(ranges), None).opens_at(now, phone=phone, tenant=None)
    if opens is None:
        assert is_open(ranges, now, phone)
        return
    assert now < opens <= now + timedelta(days=7)
    assert is_open(ranges, opens, phone)
    # Windows open on full minutes alone.
    first_full = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    minutes = (first_full + timedelta(minutes=m) for m in range(7 * 1440))
    assert next(minute for minute in minutes if is_open(ranges, minute, phone)) == opens
    assert not is_open(ranges, now, phone)


@settings(deadline=None)
@given(_RANGES, _SECONDS.map(lambda s: utc("2018-05-01 00:00") + timedelta(seconds=s)))
def test_with_summer_time_it_still_opens_later_and_is_open_then(ranges, now):
    """Brazil's last one began and ended at midnight between a Saturday and a Sunday."""
    opens = Windows.load(spec_of(ranges), None).opens_at(now, phone=SP, tenant=None)
    assert is_open(ranges, opens or now, SP)
    assert opens is None or now < opens <= now + timedelta(days=14, hours=1)


def test_an_hour_that_the_clock_leaps_over_does_not_open():
    """2018-11-04 had no hour from midnight to one in São Paulo."""
    windows = Windows.load("sun 00:00-01:00", None)
    assert windows.opens_at(utc("2018-11-03 12:00"), phone=SP, tenant=None) == utc("2018-11-11 02:00")
    half = Windows.load("sun 00:30-02:00", None)
    assert half.opens_at(utc("2018-11-03 12:00"), phone=SP, tenant=None) == utc("2018-11-04 03:30")


# -- zones

# libphonenumber puts 81 in Fernando de Noronha, and 91, 93 and 94 in Pará as it was before Lei 11.662/2008.
_BRASILIA_TIME = {"81", "91", "93", "94"}


@pytest.mark.parametrize("ddd", sorted(phone_module._STATES))
def test_each_area_code_has_the_time_of_its_place(ddd):
    phone = f"+55{ddd}987654321"
    (judged,) = phonenumbers.timezone.time_zones_for_number(phonenumbers.parse(phone))
    at = utc("2026-11-02 12:00")
    ours = at.astimezone(ZoneInfo(window._ZONES[phone_module.state(phone)])).utcoffset()
    assert ours == at.astimezone(ZoneInfo(window.BRASILIA if ddd in _BRASILIA_TIME else judged)).utcoffset()


# -- expiry


def notification(kind=Kind.DUE, due="2026-11-10", until=None):
    return Notification(
        id="inv-42", kind=kind, phone=SP, name="Maria", amount=Decimal(10), due_date=due, valid_until=until
    )


@pytest.mark.parametrize(
    ("kind", "due", "until", "expires"),
    [
        (Kind.DUE, "2026-11-10", None, "2026-11-11 03:00"),  # midnight in Brasília
        (Kind.DUE, "2026-11-10", "2026-11-10T18:00:00-03:00", "2026-11-10 21:00"),
        (Kind.DUE, "2026-11-10", "2026-11-11T18:00:00-03:00", "2026-11-11 03:00"),
        (Kind.DUE, "2026-12-31", None, "2027-01-01 03:00"),
        (Kind.DUE, "9999-12-31", None, None),
        (Kind.REMINDER, "2026-11-10", None, None),
        (Kind.OVERDUE, "2026-11-10", None, None),
        (Kind.PAID, "2026-11-10", None, None),
        (Kind.REMINDER, "2026-11-10", "2026-11-10T18:00:00Z", "2026-11-10 18:00"),
        (Kind.OVERDUE, "2026-11-10", "2026-11-20T00:00:00-03:00", "2026-11-20 03:00"),
    ],
)
def test_when_a_notification_expires(kind, due, until, expires):
    assert expires_at(notification(kind, due, until)) == (expires and utc(expires))


def test_a_text_about_a_due_charge_without_its_date_has_no_end():
    bare = Notification(id="inv-42", kind=Kind.DUE, phone=SP, text="Hoje vence.")
    assert expires_at(bare) is None


def test_for_ever_can_be_written():
    for_ever = notification(until="9999-12-31T23:59:59-03:00")
    assert expires_at(for_ever) == utc("2026-11-11 03:00")
    assert expires_at(notification(Kind.PAID, until="9999-12-31T23:59:59-03:00")) == for_ever.valid_until


@pytest.mark.parametrize(
    ("now", "may_still_go"),
    [
        ("2026-11-10 12:00", True),  # open now
        ("2026-11-10 22:59", True),
        ("2026-11-10 23:30", False),  # opens again tomorrow, after the expiry
        ("2026-11-11 02:30", False),  # the last half hour of the day, with no window open
        ("2026-11-11 03:30", False),
    ],
)
def test_a_wait_beyond_the_expiry_is_known_in_advance(now, may_still_go):
    assert notification().due_date == date(2026, 11, 10)
    opens = Windows.load("daily 08:00-20:00", None).opens_at(utc(now), phone=SP, tenant=None)
    assert ((opens or utc(now)) < expires_at(notification())) is may_still_go


# -- texts that are not true yet, or no longer


@pytest.mark.parametrize(
    ("due", "now", "so_from"),
    [
        # 2026-11-13 is a Friday, 2026-11-15 a Sunday and a holiday, 2026-11-20 a Friday and a holiday.
        ("2026-11-12", "2026-11-13 12:00", None),
        ("2026-11-12", "2026-11-13 03:00", None),
        ("2026-11-12", "2026-11-13 02:59", "2026-11-13 03:00"),  # still its due date
        ("2026-11-12", "2026-11-12 12:00", "2026-11-13 03:00"),
        ("2026-11-14", "2026-11-15 12:00", "2026-11-17 03:00"),  # due on a Saturday
        ("2026-11-14", "2026-11-16 12:00", "2026-11-17 03:00"),
        ("2026-11-14", "2026-11-17 12:00", None),
        ("2026-11-20", "2026-11-20 12:00", "2026-11-24 03:00"),
        ("2026-11-20", "2026-11-23 12:00", "2026-11-24 03:00"),
        ("2026-02-14", "2026-02-18 12:00", "2026-02-19 03:00"),  # Carnival
        ("1890-01-04", "2026-11-12 12:00", None),
    ],
)
def test_a_charge_is_called_late_when_its_next_business_day_has_passed(due, now, so_from):
    assert true_from(notification(Kind.OVERDUE, due), utc(now)) == (so_from and utc(so_from))


@pytest.mark.parametrize("due", ["2026-11-13", "2026-12-24", "9999-12-31"])
def test_an_overdue_notice_about_a_day_to_come_is_refused(due):
    with pytest.raises(InvalidNotification, match=rf"^vencimento: {due} is yet to come, and atraso says") as caught:
        true_from(notification(Kind.OVERDUE, due), utc("2026-11-13 02:59"))
    assert caught.value.field == "vencimento"


@pytest.mark.parametrize("kind", [Kind.REMINDER, Kind.DUE, Kind.PAID])
def test_other_kinds_may_go_with_any_due_date(kind):
    for due in ("2026-11-01", "2026-11-15", "9999-12-31"):
        assert true_from(notification(kind, due), utc("2026-11-12 12:00")) is None


def test_a_text_without_a_due_date_is_never_too_early():
    bare = Notification(id="inv-42", kind=Kind.OVERDUE, phone=SP, text="Está vencida.")
    assert true_from(bare, utc("2026-11-12 12:00")) is None
    assert doubt(bare, utc("2026-11-12 12:00")) is None


@pytest.mark.parametrize(
    ("kind", "due", "says"),
    [
        (Kind.REMINDER, "2026-11-13", None),
        (Kind.REMINDER, "2026-11-12", None),
        (Kind.REMINDER, "2026-11-11", "2026-11-11 is past, and lembrete speaks of what is due soon"),
        (Kind.DUE, "2026-11-12", None),
        (Kind.DUE, "2026-11-11", "it is not sent any more: vencimento is for the due date, and 2026-11-11 is past"),
        (Kind.DUE, "2026-11-13", "vencimento is for the due date, and 2026-11-13 is not the day on which it is sent"),
        (Kind.OVERDUE, "2026-11-11", None),
        (
            Kind.OVERDUE,
            "2026-11-12",
            "it waits until 2026-11-13: what is due on 2026-11-12 can be paid until 2026-11-12,",
        ),
        (Kind.PAID, "2026-11-11", None),
        (Kind.PAID, "2026-12-11", None),
    ],
)
def test_a_kind_that_does_not_fit_its_due_date_gives_a_warning(kind, due, says):
    found = doubt(notification(kind, due), utc("2026-11-12 12:00"))
    assert found is None if says is None else found is not None and found.startswith(says)


def test_a_wait_for_the_banks_is_explained():
    assert doubt(notification(Kind.OVERDUE, "2026-11-14"), utc("2026-11-15 12:00")) == (
        "it waits until 2026-11-17: what is due on 2026-11-14 can be paid until 2026-11-16, as the banks are closed on "
        "its due date, and atraso says that it is late"
    )


@pytest.mark.parametrize(
    ("settings_spec", "own", "now", "opens"),
    [
        (None, "lei-sp", "2026-11-03 00:00", "2026-11-03 11:00"),  # 21:00
        (None, "lei-sp", "2026-11-03 15:00", None),
        (None, "comercial", "2026-11-07 15:00", "2026-11-09 11:00"),  # a Saturday
        (None, "daily 08:00-20:00", "2026-12-25 15:00", "2026-12-26 11:00"),  # whatever the hours, not on Christmas
        (None, "always", "2026-12-25 05:00", None),
        (OFFICE, "daily 10:00-22:00", "2026-11-03 11:30", "2026-11-03 13:00"),  # both have to be open
        (OFFICE, "always", "2026-11-02 23:00", "2026-11-03 11:00"),
    ],
)
def test_a_message_may_have_its_own_window(settings_spec, own, now, opens):
    found = Windows.load(settings_spec, None).opens_at(utc(now), phone=SP, tenant=None, own=own)
    assert found == (None if opens is None else utc(opens))


def test_a_wrong_window_of_a_message_is_named_as_its_field():
    with pytest.raises(InvalidNotification, match="janela: 'fridays' is no window"):
        Windows.load(None, None).opens_at(utc("2026-11-03 00:00"), phone=SP, tenant=None, own="fridays")
