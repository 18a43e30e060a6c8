//! Registering shares: order, limits, faults, and what an unchanged share costs.

use haul_core::manifest::ShareState;
use haul_core::wire::ByteString;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use haul_index::Index;
use tokio_util::sync::CancellationToken;

use crate::support::{Files, Fixture, config, share};

#[tokio::test]
async fn pages_may_follow_before_begin_is_answered() {
    let f = Fixture::start().await;
    let (peer, _) = f.member(1).await;
    let files = Files::new(1, (0..3_500).map(|n| format!("f{n:05}")).collect());
    assert_eq!(peer.open(share(1), files.state).await, IndexAnswer::Replace);
    let pages = files.pages.iter().enumerate().map(|(seq, page)| {
        let request = IndexRequest::Page { tx: 5, seq: seq as u32, bytes: ByteString(page.clone()) };
        peer.ask(request)
    });
    // All are sent before the first answer is read.
    let (begun, staged, committed) = tokio::join!(
        biased;
        peer.ask(IndexRequest::Begin { share: share(1), tx: 5, base: None }),
        futures_util::future::join_all(pages),
        peer.ask(IndexRequest::Commit { tx: 5, state: files.state, changes: files.count }),
    );
    assert_eq!(begun, IndexAnswer::Begun);
    let expected: Vec<_> = (0..files.pages.len() as u32).map(|seq| IndexAnswer::Staged { seq }).collect();
    assert_eq!(staged, expected);
    assert_eq!(committed, IndexAnswer::Committed { state: files.state });
    assert_eq!(peer.count("f03499").await, 1);
}

#[tokio::test]
async fn a_refused_page_ends_its_transaction() {
    let f = Fixture::start().await;
    let (peer, _) = f.member(1).await;
    let files = Files::named(1, &["a"]);
    let page = |seq| IndexRequest::Page { tx: 1, seq, bytes: ByteString(files.pages[0].clone()) };
    let begin = IndexRequest::Begin { share: share(1), tx: 1, base: None };
    assert_eq!(peer.refused(page(0)).await, Refusal::NotOpen, "nothing was begun");
    assert_eq!(peer.refused(begin.clone()).await, Refusal::NotOpen, "the share is not open");
    peer.open(share(1), files.state).await;
    assert_eq!(peer.ask(begin.clone()).await, IndexAnswer::Begun);
    assert!(matches!(peer.refused(page(1)).await, Refusal::BadPage(_)), "out of sequence");
    assert_eq!(peer.refused(page(0)).await, Refusal::NotOpen);
    assert_eq!(peer.ask(begin.clone()).await, IndexAnswer::Begun, "its number is free again");
    let rubbish = IndexRequest::Page { tx: 1, seq: 0, bytes: ByteString(vec![7; 40]) };
    assert!(matches!(peer.refused(rubbish).await, Refusal::BadPage(_)));
    assert_eq!(peer.ask(begin).await, IndexAnswer::Begun);
    peer.stage(1, &files).await;
    let wrong = ShareState { revision: 1, ..ShareState::default() };
    assert_eq!(peer.refused(IndexRequest::Commit { tx: 1, state: wrong, changes: 1 }).await, Refusal::StateMismatch);
    assert_eq!(peer.count("a").await, 0, "nothing of it became visible");
}

#[tokio::test]
async fn only_the_own_shares_change() {
    let f = Fixture::start().await;
    let (one, _) = f.member(1).await;
    let (two, _) = f.member(2).await;
    let files = Files::named(1, &["a"]);
    one.register(share(1), &files).await;
    assert_eq!(two.refused(IndexRequest::Close { share: share(1), forget: true }).await, Refusal::NotOpen);
    assert_eq!(two.refused(IndexRequest::Begin { share: share(1), tx: 1, base: None }).await, Refusal::NotOpen);
    // The same id on another peer is another share.
    assert_eq!(two.open(share(1), files.state).await, IndexAnswer::Replace);
    assert_eq!(one.count("a").await, 1);
    assert_eq!(one.ask(IndexRequest::Close { share: share(1), forget: true }).await, IndexAnswer::Closed);
    assert_eq!(one.count("a").await, 0);
    assert_eq!(one.open(share(1), files.state).await, IndexAnswer::Replace, "forgotten");
}

/// The index goes away between the last page and the commit, without a chance to end in order.
#[test]
fn a_killed_index_keeps_all_of_a_commit_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Files::named(1, &["kept.txt"]);
    let staged = Files::new(1, (0..2_000).map(|n| format!("lost-{n:04}")).collect());
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (dir, certificate) = {
        let runtime = runtime();
        let kept = runtime.block_on(async {
            let f = Fixture::start_in(dir).await;
            let (peer, welcome) = f.member(1).await;
            peer.register(share(1), &acknowledged).await;
            assert_eq!(peer.open(share(2), staged.state).await, IndexAnswer::Replace);
            assert_eq!(peer.ask(IndexRequest::Begin { share: share(2), tx: 9, base: None }).await, IndexAnswer::Begun);
            peer.stage(9, &staged).await;
            let Fixture { dir, index } = f;
            // Held by a task, so that nothing is told to stop: the runtime ends under all of them.
            tokio::spawn(async move {
                let _running = index;
                std::future::pending::<()>().await;
            });
            (dir, welcome.certificate)
        });
        runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        kept
    };
    runtime().block_on(async {
        let f = Fixture::start_in(dir).await;
        let (peer, _) = f.returning(1, &certificate).await;
        assert_eq!(peer.open(share(2), staged.state).await, IndexAnswer::Replace, "nothing was acknowledged");
        assert_eq!(peer.count("lost-0000").await, 0);
        assert_eq!(peer.open(share(1), acknowledged.state).await, IndexAnswer::Same);
        assert_eq!(peer.count("kept.txt").await, 1);
        peer.register(share(2), &staged).await;
        assert_eq!(peer.count("lost-0000").await, 1);
    });
}

#[tokio::test]
async fn an_index_that_cannot_start_says_what_to_do() {
    let f = Fixture::start().await;
    let mut taken = config(tempfile::tempdir().unwrap().path());
    taken.listen = f.index.addresses().to_vec();
    let error = Index::start(taken, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("--index-listen") && error.contains(&f.index.addresses()[0].to_string()), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Index::start(config(file.path()), CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains(&file.path().display().to_string()), "{error}");
}
