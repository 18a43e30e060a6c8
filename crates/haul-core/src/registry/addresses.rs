//! Which addresses of a peer an index lists, and to whom it tells them.
//!
//! A directory is a weapon: whoever may register any address can make every member dial a victim. So an index lists
//! the address that it sees a connection come from, and what a peer claims only at that same address or inside the
//! prefixes that the operator allows. Loopback addresses are told only to askers on loopback. For the peer in the
//! index's own process it names the address at which the asker reached the index.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use crate::limits;
use crate::planner::splitmix64;

/// Addresses whose first bits are given: `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// A text that is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixError;

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an address and a number of bits, such as 10.0.0.0/8 or fd00::/8")
    }
}

impl core::error::Error for PrefixError {}

impl FromStr for Prefix {
    type Err = PrefixError;
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, bits) = text.split_once('/').ok_or(PrefixError)?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError)?;
        let bits: u8 = bits.parse().map_err(|_| PrefixError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(PrefixError);
        }
        Ok(Self { address, bits })
    }
}

impl Prefix {
    /// Whether the address lies inside. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                mine.to_bits() & kept == other.to_bits() & kept
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                mine.to_bits() & kept == other.to_bits() & kept
            }
            _ => false,
        }
    }
}

/// Where a peer's connection to the index comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The index's own process: its owner is the operator, so what it configured is believed.
    SameProcess,
    /// This address, as the index sees it.
    Address(IpAddr),
}

impl Origin {
    /// The network that it lies in, as a number for [`crate::planner::Hints::site`]: 256 addresses of IPv4; of IPv6 the first
    /// 48 bits, the most that one customer is usually given (RFC 6177). Those behind one router that translates addresses
    /// count as one network, which they are, even where they reach each other by other addresses only. 0 in the index's own
    /// process: from where others reach it is their affair.
    pub fn site(self) -> u32 {
        let Self::Address(address) = self else { return 0 };
        match address.to_canonical() {
            // Never 0, and never in the upper half.
            IpAddr::V4(address) => (address.to_bits() >> 8) + 1,
            // Two networks of one number would only count as near.
            IpAddr::V6(address) => splitmix64(&mut ((address.to_bits() >> 80) as u64)) as u32 | 1 << 31,
        }
    }
}

/// What an index lists of a peer that is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    same_process: bool,
    port: u16,
    addresses: Vec<SocketAddr>,
    /// `host:port` of the peer in the index's own process.
    names: Vec<String>,
}

impl Listed {
    /// Decides what is listed of a peer that serves on `port` (0: it does not serve) and claims these addresses.
    pub fn decide(origin: Origin, port: u16, claims: &[String], allowed: &[Prefix]) -> Self {
        let mut listed =
            Self { same_process: origin == Origin::SameProcess, port, addresses: Vec::new(), names: Vec::new() };
        if port == 0 {
            return listed;
        }
        if let Origin::Address(address) = origin {
            listed.addresses.push(SocketAddr::new(address.to_canonical(), port));
        }
        for claim in claims.iter().take(limits::ADDRESSES) {
            listed.claim(origin, claim, allowed);
        }
        listed
    }

    fn claim(&mut self, origin: Origin, claim: &str, allowed: &[Prefix]) {
        let Ok(claimed) = claim.parse::<SocketAddr>() else {
            // A host name could be pointed anywhere later, so only the operator's own peer may have one.
            if self.same_process && claim.len() <= limits::ADDRESS_BYTES && is_host_and_port(claim) {
                self.names.push(claim.to_string());
            }
            return;
        };
        let claimed = SocketAddr::new(claimed.ip().to_canonical(), claimed.port());
        let believed = match origin {
            Origin::SameProcess => true,
            Origin::Address(address) => {
                claimed.ip() == address.to_canonical() || allowed.iter().any(|prefix| prefix.contains(claimed.ip()))
            }
        };
        let usable = claimed.port() != 0 && !claimed.ip().is_unspecified() && !claimed.ip().is_multicast();
        if believed && usable && !self.addresses.contains(&claimed) {
            self.addresses.push(claimed);
        }
    }

    /// The addresses as one asker is told them, best first. `reached` is the address of this index that the asker's
    /// connection goes to, if it is a socket's.
    pub fn told(&self, asker: Origin, reached: Option<IpAddr>) -> Vec<String> {
        let near = match asker {
            Origin::SameProcess => true,
            Origin::Address(address) => address.to_canonical().is_loopback(),
        };
        let mut told = self.names.clone();
        if self.same_process && self.port != 0 {
            let here = reached.unwrap_or(IpAddr::from([127, 0, 0, 1])).to_canonical();
            let here = SocketAddr::new(here, self.port);
            if (near || !here.ip().is_loopback()) && !self.addresses.contains(&here) {
                told.push(here.to_string());
            }
        }
        let visible = self.addresses.iter().filter(|address| near || !address.ip().is_loopback());
        told.extend(visible.map(ToString::to_string));
        told.truncate(limits::ADDRESSES);
        told
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(text: &str) -> Origin {
        Origin::Address(text.parse().expect("address"))
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("prefix")
    }

    #[test]
    fn prefixes_hold_what_they_should() {
        assert!(prefix("10.0.0.0/8").contains("10.200.3.4".parse().expect("ip")));
        assert!(prefix("10.0.0.0/8").contains("::ffff:10.1.1.1".parse().expect("ip")));
        assert!(!prefix("10.0.0.0/8").contains("11.0.0.1".parse().expect("ip")));
        assert!(prefix("0.0.0.0/0").contains("8.8.8.8".parse().expect("ip")));
        assert!(!prefix("0.0.0.0/0").contains("fd00::1".parse().expect("ip")));
        assert!(prefix("::/0").contains("fd00::1".parse().expect("ip")));
        assert!(prefix("1.2.3.4/32").contains("1.2.3.4".parse().expect("ip")));
        assert!(!prefix("1.2.3.4/32").contains("1.2.3.5".parse().expect("ip")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError), "{bad}");
        }
    }

    #[test]
    fn those_of_one_network_are_at_one_site() {
        let site = |text| at(text).site();
        assert_eq!(site("192.0.2.1"), site("192.0.2.254"));
        assert_eq!(site("192.0.2.1"), site("::ffff:192.0.2.7"));
        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:ff::2"));
        let all = ["0.0.0.1", "192.0.2.1", "192.0.3.1", "255.255.255.255", "::1", "2001:db8:1::1", "2001:db8:2::1"];
        let sites: alloc::collections::BTreeSet<u32> = all.map(site).into();
        assert!(sites.len() == all.len() && !sites.contains(&Origin::SameProcess.site()), "{sites:?}");
    }

    #[test]
    fn a_victims_address_is_never_listed() {
        let claims = vec!["203.0.113.9:80".to_string(), "victim.example:443".to_string(), "10.0.0.5:4478".to_string()];
        let listed = Listed::decide(at("198.51.100.7"), 4478, &claims, &[]);
        assert_eq!(listed.told(at("192.0.2.1"), None), ["198.51.100.7:4478"]);
        let listed = Listed::decide(at("198.51.100.7"), 4478, &claims, &[prefix("10.0.0.0/8")]);
        assert_eq!(listed.told(at("192.0.2.1"), None), ["198.51.100.7:4478", "10.0.0.5:4478"]);
    }

    #[test]
    fn loopback_is_told_to_loopback_only() {
        let listed = Listed::decide(at("127.0.0.1"), 5000, &[], &[]);
        assert_eq!(listed.told(at("::1"), None), ["127.0.0.1:5000"]);
        assert_eq!(listed.told(Origin::SameProcess, None), ["127.0.0.1:5000"]);
        assert!(listed.told(at("192.0.2.1"), None).is_empty());
        let mapped = Listed::decide(at("::ffff:127.0.0.1"), 5000, &[], &[]);
        assert!(mapped.told(at("192.0.2.1"), None).is_empty());
        let claimed = Listed::decide(at("192.0.2.9"), 5000, &["127.0.0.1:22".to_string()], &[]);
        assert_eq!(claimed.told(at("127.0.0.1"), None), ["192.0.2.9:5000"]);
    }

    #[test]
    fn the_peer_beside_the_index_is_where_the_index_was_reached() {
        let claims = vec!["files.lab.example:4478".to_string(), "192.0.2.50:4478".to_string()];
        let listed = Listed::decide(Origin::SameProcess, 4478, &claims, &[]);
        let reached = "192.0.2.10".parse().ok();
        assert_eq!(
            listed.told(at("192.0.2.1"), reached),
            ["files.lab.example:4478", "192.0.2.10:4478", "192.0.2.50:4478"]
        );
        let plain = Listed::decide(Origin::SameProcess, 4478, &[], &[]);
        assert_eq!(plain.told(at("127.0.0.1"), "127.0.0.1".parse().ok()), ["127.0.0.1:4478"]);
        assert!(plain.told(at("192.0.2.1"), "127.0.0.1".parse().ok()).is_empty());
    }

    #[test]
    fn who_does_not_serve_is_nowhere() {
        let claims = vec!["198.51.100.7:4478".to_string()];
        assert!(Listed::decide(at("198.51.100.7"), 0, &claims, &[]).told(at("198.51.100.8"), None).is_empty());
        let odd = vec!["198.51.100.7:0".to_string(), "[::]:5".to_string(), "224.0.0.1:5".to_string(), "x".to_string()];
        let listed = Listed::decide(at("198.51.100.7"), 9, &odd, &[prefix("0.0.0.0/0"), prefix("::/0")]);
        assert_eq!(listed.told(at("198.51.100.8"), None), ["198.51.100.7:9"]);
    }
}
