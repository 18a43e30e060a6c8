//! A peer that is told to end while others still need what only it has.

use std::fs;

use crate::support::{Home, eventually, pattern, up, wait_ready};

const MIB: usize = 1024 * 1024;

#[test]
fn an_owner_that_is_told_to_end_stays_until_others_have_what_only_it_has() {
    let content = pattern(77, 24 * MIB);
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("set.bin"), &content).unwrap();
    let (index_home, owner_home, homes) = (Home::new(), Home::new(), [Home::new(), Home::new()]);
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let owner = owner_home.start(up(&["--join", &ticket, "--share", share.path().to_str().unwrap()]));
    wait_ready(&owner_home);
    // Two copies of everything would take longer than it stays.
    owner_home.run(["limit", "up", "6M"]).ok();
    let readers: Vec<_> = homes.iter().map(|home| home.start(up(&["--join", &ticket]))).collect();
    let target = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for (number, home) in homes.iter().enumerate() {
            let file = target.path().join(number.to_string());
            scope.spawn(move || home.run(["get", "set.bin", "-o", file.to_str().unwrap(), "--timeout", "60s"]).ok());
        }
        for home in &homes {
            eventually("the download has begun", || {
                let transfers = home.run(["transfers", "--json"]).records("transfer");
                transfers.iter().any(|transfer| transfer["done"].as_u64().is_some_and(|bytes| bytes > 0))
            });
        }
        owner.stop();
    });
    for number in 0..homes.len() {
        assert!(fs::read(target.path().join(number.to_string())).unwrap() == content, "the content is right");
    }
    for running in readers.into_iter().chain([index]) {
        running.stop();
    }
}
