//! Instants in records as people read them.

use std::time::Duration;

use jiff::Timestamp;

use super::text;

/// How long ago an RFC 3339 instant was; empty when there is none. One in the future is `now`.
pub(crate) fn ago(instant: Option<&str>) -> String {
    since(instant).map(text::age).unwrap_or_default()
}

/// How long until it comes: `24 h`; `over` when it has passed.
pub(crate) fn until(instant: &str) -> String {
    let Ok(instant) = instant.parse::<Timestamp>() else { return instant.to_owned() };
    let seconds = instant.as_second() - Timestamp::now().as_second();
    match u64::try_from(seconds) {
        // A minute's worth of rounding: what was made a second ago for 24 hours shows 24 h.
        Ok(seconds) if seconds > 3_600 => format!("{} h", (seconds + 60) / 3_600),
        Ok(seconds) => text::rough(Duration::from_secs(seconds)),
        Err(_) => "over".to_owned(),
    }
}

fn since(instant: Option<&str>) -> Option<Duration> {
    let instant: Timestamp = instant?.parse().ok()?;
    Some(Duration::try_from(Timestamp::now() - instant).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_become_ages() {
        assert_eq!(ago(None), "");
        assert_eq!(ago(Some("not an instant")), "");
        assert_eq!(ago(Some("9999-01-01T00:00:00Z")), "now");
        let two_days = Timestamp::now() - jiff::SignedDuration::from_hours(49);
        assert_eq!(ago(Some(&two_days.to_string())), "2 d");
        let tomorrow = Timestamp::now() + jiff::SignedDuration::from_hours(24);
        assert_eq!(until(&tomorrow.to_string()), "24 h");
        assert_eq!(until("2001-01-01T00:00:00Z"), "over");
    }
}
