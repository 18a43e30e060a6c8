//! What a person writes: `20M`, `up 20M`, `mon-fri 08:00-18:00 50M`; and which of several rules holds at a minute of the
//! week.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::query::value;

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;
/// Minutes of a week. Minute 0 is Monday 00:00, local time.
pub const WEEK_MINUTES: u16 = 7 * DAY_MINUTES;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const ALL_DAYS: u8 = 0b111_1111;

/// Which way bytes go, seen from this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To others.
    Up,
    /// From others.
    Down,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Hours of days of the week, local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct When {
    /// Bit 0 is Monday.
    days: u8,
    /// First minute of the day.
    from: u16,
    /// The minute behind the last; not after `from` means that it ends on the next day.
    to: u16,
}

impl When {
    /// Whether a minute of the week lies in these hours.
    pub fn contains(&self, minute: u16) -> bool {
        let minute = minute % WEEK_MINUTES;
        let (day, of_day) = (minute / DAY_MINUTES, minute % DAY_MINUTES);
        let on = |day: u16| self.days & (1 << (day % 7)) != 0;
        if self.from < self.to {
            return on(day) && (self.from..self.to).contains(&of_day);
        }
        // Past midnight: the hours belong to the day on which they begin.
        (on(day) && of_day >= self.from) || (on(day + 6) && of_day < self.to)
    }
}

/// A limit as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// None is both ways.
    pub direction: Option<Direction>,
    /// None is always.
    pub when: Option<When>,
    /// Bytes per second; none is without a limit, 0 is nothing at all.
    pub rate: Option<u64>,
}

/// A rule that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// Not a rate.
    Rate(String),
    /// A part of the line's rate, which nobody has measured.
    Percent(String),
    /// Not days of the week.
    Days(String),
    /// Not hours of the day.
    Hours(String),
    /// Days without hours, or words that do not belong there.
    Form(String),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate(text) => {
                write!(f, "'{text}' is no rate: write bytes per second, for example 20M, 512k, 100Mbit, or off")
            }
            Self::Percent(text) => write!(
                f,
                "'{text}' is a part of the line's rate, which haul does not measure: write bytes per second, for \
                 example 20M, or 100Mbit for a line of that rate"
            ),
            Self::Days(text) => write!(f, "'{text}' are no days: write for example mon-fri, or sat,sun"),
            Self::Hours(text) => write!(f, "'{text}' are no hours: write for example 08:00-18:00"),
            Self::Form(text) => {
                write!(
                    f,
                    "'{text}' is not understood: write for example 'mon-fri 08:00-18:00 50M', or 'up 22:00-06:00 off'"
                )
            }
        }
    }
}

impl core::error::Error for RuleError {}

/// Reads a rate in bytes per second: a size (`20M` are 20,000,000 bytes, `20Mi` are 20,971,520; `k`, `G` and so on),
/// perhaps with `/s`; in bits with `bit` behind (`100Mbit` are 12,500,000 bytes); `off` is no limit.
pub fn parse_rate(text: &str) -> Result<Option<u64>, RuleError> {
    let lower = text.to_ascii_lowercase();
    if lower == "off" {
        return Ok(None);
    }
    if lower.ends_with('%') {
        return Err(RuleError::Percent(text.to_owned()));
    }
    let plain = lower.strip_suffix("/s").unwrap_or(&lower);
    let rate = match plain.strip_suffix("bit") {
        Some(bits) if !bits.ends_with('b') => value::size(bits).map(|bits| bits / 8),
        Some(_) => None,
        None => value::size(plain),
    };
    rate.map(Some).ok_or_else(|| RuleError::Rate(text.to_owned()))
}

/// A rate as it could have been written, exactly: `20M/s`, `64Ki/s`, `12345/s`; none is `off`.
pub fn rate_text(rate: Option<u64>) -> String {
    const UNITS: [(u64, &str); 6] =
        [(1_000_000_000, "G"), (1 << 30, "Gi"), (1_000_000, "M"), (1 << 20, "Mi"), (1_000, "k"), (1 << 10, "Ki")];
    let Some(rate) = rate else { return "off".into() };
    let unit = UNITS.iter().find(|(unit, _)| rate > 0 && rate.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{rate}/s"), |(unit, name)| format!("{}{name}/s", rate / unit))
}

impl core::str::FromStr for Rule {
    type Err = RuleError;

    /// Reads `[up|down] [DAYS] [HH:MM-HH:MM] RATE`; the direction may stand behind the hours, too.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let Some(rate) = words.pop() else { return Err(RuleError::Form(text.to_owned())) };
        let rate = parse_rate(rate)?;
        let mut direction = None;
        for (name, value) in [("up", Direction::Up), ("down", Direction::Down)] {
            if let Some(at) = words.iter().position(|word| direction.is_none() && word.eq_ignore_ascii_case(name)) {
                words.remove(at);
                direction = Some(value);
            }
        }
        let when = words;
        let when = if when.is_empty() { None } else { Some(when.join(" ").parse()?) };
        Ok(Self { direction, when, rate })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(direction) = self.direction {
            write!(f, "{direction} ")?;
        }
        if let Some(when) = self.when {
            write!(f, "{when} ")?;
        }
        f.write_str(rate_text(self.rate).trim_end_matches("/s"))
    }
}

impl core::str::FromStr for When {
    type Err = RuleError;

    /// Reads `[DAYS] HH:MM-HH:MM`, or `DAYS` for whole days.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_hours = |word: &str| word.contains(':');
        let (days, hours) = match words.as_slice() {
            [hours] if is_hours(hours) => (ALL_DAYS, Some(*hours)),
            [days] => (parse_days(days)?, None),
            [days, hours] if is_hours(hours) => (parse_days(days)?, Some(*hours)),
            _ => return Err(RuleError::Form(text.to_owned())),
        };
        let (from, to) = match hours {
            Some(hours) => parse_hours(hours)?,
            None => (0, DAY_MINUTES),
        };
        Ok(Self { days, from, to })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != ALL_DAYS {
            write!(f, "{} ", days_text(self.days))?;
        }
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{}", clock(self.from), clock(self.to))
    }
}

/// `mon-fri`, `sat,sun`, `mon`; runs may go over the end of the week.
fn parse_days(text: &str) -> Result<u8, RuleError> {
    let wrong = || RuleError::Days(text.to_owned());
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or_else(wrong);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days |= 1 << at;
        while at != last {
            at = (at + 1) % 7;
            days |= 1 << at;
        }
    }
    Ok(days)
}

fn days_text(days: u8) -> String {
    let on = |day: usize| days & (1 << day) != 0;
    let mut parts: Vec<String> = Vec::new();
    let mut day = 0;
    while let Some(name) = DAYS.get(day) {
        let length = (day..7).take_while(|day| on(*day)).count();
        match (length, DAYS.get((day + length).saturating_sub(1))) {
            (0, _) => day += 1,
            (1, _) | (_, None) => parts.push((*name).to_string()),
            (_, Some(last)) => parts.push(format!("{name}-{last}")),
        }
        day += length;
    }
    parts.join(",")
}

fn parse_hours(text: &str) -> Result<(u16, u16), RuleError> {
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.split_once(':')?;
        let digits = |text: &str| text.len() <= 2 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (hour, minute) = (digits(hour).then(|| hour.parse::<u16>().ok())??, minute);
        let minute = (digits(minute) && minute.len() == 2).then(|| minute.parse::<u16>().ok())??;
        let of_day = hour * 60 + minute;
        (minute < 60 && of_day <= DAY_MINUTES).then_some(of_day)
    };
    let hours = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    match hours {
        // From a time to itself would be a day or nothing: nobody can tell which was meant.
        Some((from, to)) if from != to && from < DAY_MINUTES => Ok((from, to)),
        _ => Err(RuleError::Hours(text.to_owned())),
    }
}

/// The rate of one way in one place over the week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    usual: Option<u64>,
    windows: Vec<(When, Option<u64>)>,
}

impl Schedule {
    /// The rules that speak of this direction. Of several for the same minute the last counts, and hours before what
    /// holds always.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a Rule>, direction: Direction) -> Self {
        let mut schedule = Self::default();
        for rule in rules {
            if rule.direction.is_some_and(|other| other != direction) {
                continue;
            }
            match rule.when {
                None => schedule.usual = rule.rate,
                Some(when) => schedule.windows.push((when, rule.rate)),
            }
        }
        schedule
    }

    /// Bytes per second at this minute of the week; none is without a limit.
    pub fn rate_at(&self, minute: u16) -> Option<u64> {
        let window = self.windows.iter().rev().find(|(when, _)| when.contains(minute));
        window.map_or(self.usual, |(_, rate)| *rate)
    }

    /// Whether the rate changes over the week.
    pub fn has_hours(&self) -> bool {
        !self.windows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn at(day: u16, hour: u16, minute: u16) -> u16 {
        day * DAY_MINUTES + hour * 60 + minute
    }

    fn schedule(rules: &[&str], direction: Direction) -> Schedule {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        Schedule::new(&rules, direction)
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, rate) in [
            ("20M", 20_000_000),
            ("20m", 20_000_000),
            ("20MB/s", 20_000_000),
            ("20Mi", 20 << 20),
            ("1.5G", 1_500_000_000),
            ("100Mbit", 12_500_000),
            ("100mbit/s", 12_500_000),
            ("800", 800),
            ("0", 0),
        ] {
            assert_eq!(parse_rate(text), Ok(Some(rate)), "{text}");
        }
        assert_eq!(parse_rate("off"), Ok(None));
        for bad in ["", "fast", "-1", "20X", "20Mbbit", "M", "1e6", "/s", "99999999999999999999T"] {
            assert!(matches!(parse_rate(bad), Err(RuleError::Rate(_))), "{bad}");
        }
        let percent = parse_rate("80%").unwrap_err().to_string();
        assert!(percent.contains("does not measure") && percent.contains("20M"), "{percent}");
    }

    #[test]
    fn rates_are_shown_as_they_could_be_written() {
        for rate in [0, 1, 12_345, 1 << 10, 64 << 10, 20_000_000, 20 << 20, 3_000_000_000] {
            assert_eq!(parse_rate(&rate_text(Some(rate))), Ok(Some(rate)));
        }
        assert_eq!(rate_text(Some(20_000_000)), "20M/s");
        assert_eq!(rate_text(Some(64 << 10)), "64Ki/s");
        assert_eq!(rate_text(None), "off");
    }

    #[test]
    fn hours_hold_on_their_days() {
        let work = schedule(&["200M", "mon-fri 08:00-18:00 50M"], Direction::Up);
        assert_eq!(work.rate_at(at(0, 7, 59)), Some(200_000_000));
        assert_eq!(work.rate_at(at(0, 8, 0)), Some(50_000_000));
        assert_eq!(work.rate_at(at(4, 17, 59)), Some(50_000_000));
        assert_eq!(work.rate_at(at(4, 18, 0)), Some(200_000_000));
        assert_eq!(work.rate_at(at(5, 12, 0)), Some(200_000_000));
    }

    #[test]
    fn hours_past_midnight_belong_to_the_day_on_which_they_begin() {
        let night = schedule(&["1M", "sun 22:00-06:00 off"], Direction::Down);
        assert_eq!(night.rate_at(at(6, 21, 59)), Some(1_000_000));
        assert_eq!(night.rate_at(at(6, 22, 0)), None);
        assert_eq!(night.rate_at(at(0, 5, 59)), None, "Monday morning after Sunday night");
        assert_eq!(night.rate_at(at(0, 6, 0)), Some(1_000_000));
        assert_eq!(night.rate_at(at(6, 3, 0)), Some(1_000_000));
    }

    #[test]
    fn the_last_rule_counts_and_each_way_has_its_own() {
        let rules = ["up 5M", "down 9M", "08:00-18:00 3M", "up 12:00-13:00 1M"];
        let (up, down) = (schedule(&rules, Direction::Up), schedule(&rules, Direction::Down));
        assert_eq!((up.rate_at(at(2, 3, 0)), down.rate_at(at(2, 3, 0))), (Some(5_000_000), Some(9_000_000)));
        assert_eq!((up.rate_at(at(2, 9, 0)), down.rate_at(at(2, 9, 0))), (Some(3_000_000), Some(3_000_000)));
        assert_eq!((up.rate_at(at(2, 12, 30)), down.rate_at(at(2, 12, 30))), (Some(1_000_000), Some(3_000_000)));
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for (text, example) in [
            ("mon-fry 08:00-18:00 50M", "mon-fri"),
            ("mon-fri 8-18 50M", "mon-fri"),
            ("08:00-25:00 50M", "08:00-18:00"),
            ("08:00-08:00 50M", "08:00-18:00"),
            ("08:61-09:00 1M", "08:00-18:00"),
            ("08:00-18:00", "20M"),
            ("", "50M"),
            ("up down 5M", "mon-fri"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(example), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn rules_survive_being_written(days in 1_u8..128, from in 0_u16..1440, to in 0_u16..=1440, rate in 0_u64..1 << 40) {
            prop_assume!(from != to);
            let rule = Rule { direction: Some(Direction::Up), when: Some(When { days, from, to }), rate: Some(rate) };
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn hours_are_as_long_as_they_say(days in 1_u8..128, from in 0_u16..1440, to in 1_u16..=1440) {
            prop_assume!(from != to);
            let when = When { days, from, to };
            let length = if from < to { to - from } else { DAY_MINUTES - from + to };
            let minutes = (0..WEEK_MINUTES).filter(|minute| when.contains(*minute)).count();
            prop_assert_eq!(minutes as u32, days.count_ones() * u32::from(length));
        }

        #[test]
        fn no_text_breaks_the_parser(text in "\\PC{0,40}") {
            let _ = text.parse::<Rule>();
        }
    }
}
