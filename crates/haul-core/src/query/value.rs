//! Values of filters: sizes, ages and their ranges.

/// Reads `>N`, `>=N`, `<N`, `<=N`, `N..M`, `N..`, `..M` or `N` as an inclusive range, with `number` for each side.
/// `exact` says what a lone number means.
pub(super) fn range<N: Copy + PartialOrd>(
    text: &str,
    number: impl Fn(&str) -> Option<N>,
    (lowest, highest): (N, N),
    above: impl Fn(N) -> Option<N>,
    below: impl Fn(N) -> Option<N>,
) -> Option<(N, N)> {
    let (min, max) = if let Some(rest) = text.strip_prefix(">=") {
        (number(rest)?, highest)
    } else if let Some(rest) = text.strip_prefix("<=") {
        (lowest, number(rest)?)
    } else if let Some(rest) = text.strip_prefix('>') {
        (above(number(rest)?)?, highest)
    } else if let Some(rest) = text.strip_prefix('<') {
        (lowest, below(number(rest)?)?)
    } else if let Some((from, to)) = text.split_once("..") {
        if from.is_empty() && to.is_empty() {
            return None;
        }
        let min = if from.is_empty() { lowest } else { number(from)? };
        (min, if to.is_empty() { highest } else { number(to)? })
    } else {
        let exact = number(text.strip_prefix('=').unwrap_or(text))?;
        (exact, exact)
    };
    (min <= max).then_some((min, max))
}

/// Bytes: digits, perhaps a decimal fraction, and k, M, G, T (powers of 1,000), Ki, Mi, Gi, Ti (of 1,024), each
/// perhaps with a `B` behind. Upper and lower case mean the same.
pub fn size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return None,
    };
    decimal(number, factor)
}

/// Nanoseconds: digits, perhaps a decimal fraction, and s, m, h, d, w or y (365 days).
pub(super) fn age(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: u64 = match unit.to_ascii_lowercase().as_str() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return None,
    };
    i64::try_from(decimal(number, seconds.checked_mul(1_000_000_000)?)?).ok()
}

/// `number` times `factor` without floating point: at most nine digits of a fraction count.
fn decimal(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = fraction.get(..fraction.len().min(9))?;
    let mut part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    part *= factor as u128;
    for _ in 0..fraction.len() {
        part /= 10;
    }
    u64::try_from(whole.checked_mul(factor as u128)?.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1k", Some(1_000)),
            ("1KiB", Some(1_024)),
            ("1.5G", Some(1_500_000_000)),
            (".5m", Some(500_000)),
            ("2TB", Some(2_000_000_000_000)),
            ("1.5", Some(1)),
            ("", None),
            ("k", None),
            ("1x", None),
            ("1.2.3k", None),
            ("99999999999T", None),
            ("-1", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
        assert_eq!(age("7d"), Some(7 * 86_400 * 1_000_000_000));
        assert_eq!(age("1.5h"), Some(5_400 * 1_000_000_000));
        assert_eq!(age("300y"), None);
        assert_eq!(age(""), None);
        assert_eq!(age("é"), None);
    }
}
