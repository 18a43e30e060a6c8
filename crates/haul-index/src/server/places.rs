//! Where an index can be reached: what tickets say, and the names in its own HTTPS certificate.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use haul_core::limits;

/// What tickets say: what the operator advertises; else every address listened on, `0.0.0.0` and `[::]` standing for
/// the machine's own addresses.
pub(super) fn for_tickets(advertise: &[String], listen: &[SocketAddr]) -> Vec<String> {
    if !advertise.is_empty() {
        return advertise.iter().take(limits::ADDRESSES).cloned().collect();
    }
    let mut places = Vec::new();
    for address in listen {
        if address.ip().is_unspecified() {
            let own = own_addresses().into_iter().filter(|own| own.is_ipv4() || address.is_ipv6());
            places.extend(own.map(|own| SocketAddr::new(own, address.port()).to_string()));
            places.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()).to_string());
        } else {
            places.push(address.to_string());
        }
    }
    places.truncate(limits::ADDRESSES);
    places
}

/// Names for the HTTPS certificate.
pub(super) fn own_names(advertise: &[String], listen: &[SocketAddr]) -> Vec<String> {
    let mut names: BTreeSet<String> =
        BTreeSet::from(["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]);
    names.extend(advertise.iter().filter_map(|place| place.rsplit_once(':')).map(|(host, _)| host.to_owned()));
    names.extend(listen.iter().map(|address| address.ip().to_string()));
    names.extend(own_addresses().iter().map(ToString::to_string));
    let host = rustix::system::uname();
    names.extend(host.nodename().to_str().ok().map(str::to_owned));
    names.retain(|name| name.parse::<IpAddr>().is_ok() || is_dns_name(name));
    names.into_iter().collect()
}

fn is_dns_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

/// This machine's addresses that others may reach, as Linux lists them; none where it does not.
fn own_addresses() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut addresses: Vec<IpAddr> = parse_fib_trie(&v4).into_iter().map(IpAddr::from).collect();
    addresses.extend(parse_if_inet6(&v6).into_iter().map(IpAddr::from));
    addresses
}

/// Local addresses stand as `|-- ADDRESS` followed by a line with `host LOCAL`.
fn parse_fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.ends_with("host LOCAL")
            && let Some(address) = last
            && !address.is_loopback()
            && !address.is_link_local()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// `32 hex digits, interface number, prefix length, scope, flags, name`; scope 00 is global.
fn parse_if_inet6(text: &str) -> Vec<Ipv6Addr> {
    let global = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? == "00").then(|| Ipv6Addr::from_bits(address))
    });
    global.collect()
}

/// Writes a file that only its owner can read, all of it or nothing.
pub(super) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn advertised_addresses_win() {
        let listen = ["192.0.2.1:5".parse().unwrap()];
        assert_eq!(for_tickets(&["files.example:4477".to_owned()], &listen), ["files.example:4477"]);
        assert_eq!(for_tickets(&[], &listen), ["192.0.2.1:5"]);
        let any = for_tickets(&[], &["[::]:7".parse().unwrap()]);
        assert_eq!(any.last().map(String::as_str), Some("127.0.0.1:7"));
        assert!(!any.iter().any(|place| place.contains("[::]") || place.contains("0.0.0.0")));
    }

    #[test]
    fn linux_lists_are_understood() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.7\n        /32 host LOCAL\n     \
                    |-- 192.0.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 192.0.2.7\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(trie), ["192.0.2.7".parse::<Ipv4Addr>().unwrap()]);
        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     fe80000000000000000000000000abcd 02 40 20 80     eth0\n";
        assert_eq!(parse_if_inet6(inet6), ["2001:db8::7".parse::<Ipv6Addr>().unwrap()]);
    }
}
