//! The two clocks: one for leases and deadlines that never jumps, one for people.

use std::time::{SystemTime, UNIX_EPOCH};

use haul_core::time::{Moment, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Time since boot, suspended time included (`CLOCK_BOOTTIME`). `Instant` would stop while the machine sleeps.
pub fn boot_now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let millis = u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000;
    Moment(seconds.saturating_mul(1_000).saturating_add(millis))
}

/// Time on the wall clock; 1970 for a clock that is set before it.
pub fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Changes with every start of the machine; boot moments of different boots cannot be compared. All zero where the
/// kernel does not tell, which then counts as always another boot: see [`same_boot`].
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut id = [0; 16];
    let mut digits = text.chars().filter_map(|c| c.to_digit(16));
    for byte in &mut id {
        let (Some(high), Some(low)) = (digits.next(), digits.next()) else { return [0; 16] };
        *byte = (high << 4 | low) as u8;
    }
    id
}

/// Whether an id that was stored earlier is known to be of the boot that runs now.
pub fn same_boot(stored: &[u8; 16]) -> bool {
    *stored != [0; 16] && *stored == boot_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_tell_plausible_times() {
        let first = boot_now();
        assert!(first.0 > 0 && boot_now() >= first);
        // 2024-01-01: any machine that runs this is set to a later time.
        assert!(wall_now().0 > 1_704_067_200_000);
        assert!(same_boot(&boot_id()));
        assert!(!same_boot(&[0; 16]));
    }
}
