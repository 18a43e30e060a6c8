//! Every maximum of the protocol and of the state machines, each with its reason. Relations between them are checked
//! when this file is compiled.

use core::time::Duration;

/// Largest frame (bytes after the length) before the other side is authenticated as a member: a Hello with a
/// certificate or ticket and a few addresses fits several times.
pub const FRAME_BYTES_BEFORE_MEMBERSHIP: usize = 4 * 1024;
/// Largest frame afterwards. A page, a full answer and a leaf with its header fit.
pub const FRAME_BYTES: usize = 1024 * 1024;
/// Bytes of a frame that are not body: kind (1) and id (4).
pub const FRAME_HEADER_BYTES: usize = 5;
/// Bulk bytes that a receiver allows in flight on one stream before it has consumed them: 2 MiB is the
/// bandwidth-delay product of 1 Gbit/s at 16 ms, and 32 leaves.
pub const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Requests that one side may have unanswered on a connection. Memory per connection stays bounded.
pub const REQUESTS_IN_FLIGHT: usize = 256;
/// Bytes of unanswered requests on one connection: 8 requests of the largest size, or 8 pages several times over.
pub const REQUEST_BYTES_IN_FLIGHT: usize = 8 * 1024 * 1024;
/// Requests that a server takes at once from a connection that is not yet a member's: Introduce and Hello.
pub const REQUESTS_BEFORE_MEMBERSHIP: usize = 4;
/// Pushes waiting to be read on one connection; a receiver that falls further behind loses the connection.
pub const PUSHES_WAITING: usize = 256;
/// Bytes of pushes waiting to be read on one connection: 16 of the largest that an index sends.
pub const PUSH_BYTES_WAITING: usize = 8 * 1024 * 1024;
/// What a data frame costs of the window besides its bytes, so that frames of no bytes are bounded too.
pub const DATA_FRAME_COST: u32 = 64;
/// Credit that one stream may have at most; more is a mistake of the receiver.
pub const STREAM_CREDIT_MAX: usize = 256 * 1024 * 1024;
/// Unsent bytes of one connection in the kernel above which it takes no more, on a fast link: an answer overtakes bulk data
/// soon, and fewer wake-ups than with this many gain nothing.
pub const UNSENT_BYTES: u32 = 256 * 1024;
/// Bytes waiting to be written on one connection before its senders wait.
pub const OUTPUT_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// A connection whose output queue has not moved for this long is closed.
pub const OUTPUT_STALL: Duration = Duration::from_secs(10);

/// Time for the TLS handshake. Ten round trips on a slow satellite link.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Time from the handshake to the first complete request.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at once on one listener; further connections wait in the kernel's queue.
pub const HANDSHAKES_PENDING: usize = 256;
/// Handshakes that a listener begins per second and core. A core does some 5,000, so when everybody comes back at once,
/// more than half of it is left to those who are in. The others wait in the kernel's queue, or try again a little later.
pub const HANDSHAKES_PER_SECOND: u32 = 2_000;
/// A pooled peer connection without requests closes after this long.
pub const PEER_CONNECTION_IDLE: Duration = Duration::from_mins(1);

/// Bytes of one path component: the limit of every file system that we know.
pub const NAME_BYTES: usize = 255;
/// Bytes of a path within a share.
pub const PATH_BYTES: usize = 1024;
/// Components of a path.
pub const PATH_COMPONENTS: usize = 32;
/// Bytes of a symbolic link's target.
pub const LINK_TARGET_BYTES: usize = 1024;
/// Bytes of the name of a share, a peer or a group.
pub const LABEL_BYTES: usize = 64;
/// Groups that one share or one member belongs to.
pub const GROUPS: usize = 32;
/// Addresses that one peer announces.
pub const ADDRESSES: usize = 16;
/// Bytes of one address in text (`[v6]:port` or `host:port`).
pub const ADDRESS_BYTES: usize = 270;

/// Entries on one page.
pub const PAGE_ENTRIES: usize = 1_000;
/// Bytes of one page. 1,000 entries with 200-byte names fit; a page of the longest names holds fewer.
pub const PAGE_BYTES: usize = 256 * 1024;
/// Entries in one commit that amends a share. What is staged in memory stays below 20 MiB.
pub const AMEND_ENTRIES: usize = 50_000;
/// A walk commits after this many entries or [`WALK_COMMIT_INTERVAL`], so names are searchable at walking speed.
pub const WALK_COMMIT_ENTRIES: usize = 10_000;
/// See [`WALK_COMMIT_ENTRIES`].
pub const WALK_COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Pages in flight (sent, not acknowledged) while registering.
pub const PAGES_IN_FLIGHT: usize = 8;
/// Transactions that one session may have open: a few shares at once, each with its successor.
pub const TRANSACTIONS_PER_SESSION: usize = 64;
/// Bytes of pages that one session may have staged in amendments before it commits: three of the largest amendments
/// with names of usual length.
pub const STAGED_BYTES: usize = 64 * 1024 * 1024;
/// Shares of one peer.
pub const SHARES_PER_PEER: usize = 1_000;

/// Hashes or names in one lookup.
pub const LOOKUP_KEYS: usize = 256;
/// Providers returned for one key.
pub const LOOKUP_PROVIDERS: usize = 256;
/// Peers in one answer to a Locate, all blobs together: 32 for each of the most blobs, and few enough that an answer
/// of one-byte numbers stays cheap to read.
pub const LOCATED_PEERS: usize = 8_192;
/// Places of one blob that a Locate counts: who fetches a file asks whether many have it, not how many exactly. (A
/// million empty files share a blob.)
pub const LOCATED_PLACES: u32 = 1_024;
/// Cards in one request: as many peers as one blob is located at.
pub const CARDS: usize = LOOKUP_PROVIDERS;
/// Work on one peer's questions, in units of about 0.1 microseconds of one core: a blob located, a name compared. A
/// session has one core at most, and this is that core's worth: nobody meets it with one session and fair questions.
pub const WORK_PER_SECOND: u64 = 10_000_000;
/// Work that a peer may have saved up while it asked nothing: some seconds of the dearest questions.
pub const WORK_SAVED: u64 = 5 * WORK_PER_SECOND;
/// Bytes of pages that wait to be staged before nobody else may begin a list: a thousand peers with all pages in flight
/// that they send at once.
pub const PAGES_WAITING_BYTES: usize = 1024 * 1024 * 1024;
/// Connections of one address at one index. A large campus behind one address fits.
pub const CONNECTIONS_PER_ADDRESS: usize = 4_096;
/// Hits in one answer; more by cursor.
pub const SEARCH_HITS: usize = 1_000;
/// Entries in one answer to a browse or a listing.
pub const BROWSE_ENTRIES: usize = 1_000;
/// Bytes of a query.
pub const QUERY_BYTES: usize = 1_024;
/// Words and filters of a query.
pub const QUERY_TERMS: usize = 32;
/// Watches of one member: one per question that a person keeps, several times over.
pub const WATCHES_PER_MEMBER: usize = 100;
/// Watches of all members at one index: what they need in memory stays below half a gigabyte, whatever they ask.
pub const WATCHES: usize = 20_000;
/// Matches that wait for one member to take them, of all its watches; further ones are lost, with a mark.
pub const MATCHES_WAITING: usize = 1_000;
/// The same of all members of an index: below 100 MB with the longest paths. The fuller it is, the fewer may wait for one, a
/// few excepted.
pub const MATCHES_WAITING_IN_ALL: usize = 50_000;
/// Names with their contents that a watch remembers as told; the oldest are forgotten, and told again if they come again.
pub const MATCHES_REMEMBERED: usize = 2_000;
/// Small blobs in one request.
pub const SMALL_BLOBS: usize = 1_000;
/// A blob of up to this many leaves is small: it is sent whole among others, without an outline and without a part file. One
/// that is wrong or breaks off costs a mebibyte.
pub const SMALL_LEAVES: u64 = 16;
/// Ranges of leaves in one request for pieces.
pub const PIECE_RANGES: usize = 64;
/// Runs of pieces that one message tells of; further ones go into the next.
pub const HAVE_RANGES: usize = 1_024;
/// Runs of pieces that a plan wants of one source.
pub const PLAN_RANGES: usize = 64;
/// Peers that one member of a swarm gets from, and is told of: more connections bring nothing, as a few dozen of
/// neighbours already make a well connected graph.
pub const SWARM_SOURCES: usize = 64;
/// Smallest blob for which a swarm is worth its messages.
pub const SWARM_BYTES: u64 = 16 * 1024 * 1024;
/// Swarms that one member takes part in: what it downloads at once, and what it has downloaded and goes on serving.
pub const SWARMS_PER_MEMBER: usize = 1_000;
/// How long a request for leaves that are still on their way waits for the next of them.
pub const LEAF_WAIT: Duration = Duration::from_secs(10);
/// How long a question for more leaves waits for one.
pub const BITFIELD_WAIT: Duration = Duration::from_secs(5);

/// How long a peer counts as online without a renewal.
pub const LEASE: Duration = Duration::from_secs(90);
/// How often a peer renews, with jitter of a tenth.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(30);
/// Renewals are due on the beats of the index's clock, so that an index with nothing else to do wakes up once for many of
/// them. With 10,000 peers a beat is 83 renewals: below a millisecond of work.
pub const RENEWAL_BEAT: Duration = Duration::from_millis(250);
/// How long a grant is valid; a revoked member is out after this at the latest.
pub const GRANT: Duration = Duration::from_mins(5);
/// How long a peer that lost its index accepts grants that were in date when it lost it.
pub const OFFLINE_GRACE: Duration = Duration::from_hours(24);
/// How long an index server's certificate is valid.
pub const INDEX_CERTIFICATE: Duration = Duration::from_hours(2160);
/// Uses and life of a ticket unless its maker says otherwise.
pub const TICKET_USES: u32 = 50;
/// See [`TICKET_USES`].
pub const TICKET_LIFE: Duration = Duration::from_hours(24);
/// Most uses of one ticket: a large campus.
pub const TICKET_USES_MAX: u32 = 100_000;
/// Longest life of a ticket. One that is found later than a year after should no longer open anything.
pub const TICKET_LIFE_MAX: Duration = Duration::from_hours(24 * 365);
/// Tickets open at once; each costs memory at the index.
pub const TICKETS: usize = 10_000;
/// Removed members told in one message; 32 bytes of key and a serial each, so that they fit into a frame beside a grant.
pub const REVOKED_LISTED: usize = 10_000;

/// Bytes of a leaf: the unit of verification, forwarding and blame. Large enough for full SIMD width in BLAKE3 (8 or
/// 16 chunks side by side, four times over), small enough to forward before a piece is complete.
pub const LEAF_BYTES: u64 = 64 * 1024;
/// Leaves whose chaining values make one sheet: 256 MiB of file, 128 KiB of sheet.
pub const SHEET_LEAVES: u64 = 4_096;
/// Largest blob. Two levels of sheets cover 8 TiB; a third is not built yet, so larger files are skipped by name.
pub const BLOB_BYTES: u64 = LEAF_BYTES * SHEET_LEAVES * ROOT_SHEET_ENTRIES;
/// Entries of the root sheet: one chaining value per sheet. 32,768 make 1 MiB, so root sheets travel in pages of a frame.
pub const ROOT_SHEET_ENTRIES: u64 = 32_768;
/// Progress of a download is made durable after this many bytes …
pub const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
/// … or this long, whichever comes first.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Notes kept of one transfer: what happened in the last minutes of a bad one, in some 30 KiB. With as many finished
/// transfers as are kept that is 6 MiB.
pub const TIMELINE_NOTES: usize = 256;
/// Characters of a file's path in a note, the last ones: two lines of a terminal; what tells files apart stands at the end.
pub const TIMELINE_PATH_CHARS: usize = 128;
/// Providers of one transfer that are counted one by one: as many as one lookup names.
pub const TIMELINE_PROVIDERS: usize = LOOKUP_PROVIDERS;

/// How often the planner of a swarm runs at most: what is planned in one run is a few pieces per link, and two runs a
/// round trip apart see the same reports.
pub const PLAN_INTERVAL: Duration = Duration::from_millis(100);
/// How long a sink follows a plan without hearing of the next. Two renewals may be lost; a swarm whose index died goes on
/// by itself within this time.
pub const PLAN_LEASE: Duration = Duration::from_secs(5);
/// How long a peer that is told to end stays for what only it has. Others copy at their links' speed and some hundred MB in
/// this time; service managers kill who has not ended after 10 s, and a clean end takes some of that.
pub const LEAVING_PATIENCE: Duration = Duration::from_secs(8);
/// Neighbours of one peer in a swarm: connections that plans use. With 32 a tree over 10,000 peers is five deep: most of
/// them are for the peers above in all stripes.
pub const SWARM_NEIGHBOURS: usize = 32;
/// Peers times pieces of one swarm: two bits each, so 256 MiB of sets at most. 10,000 peers with 100 GiB in pieces of
/// 4 MiB are a quarter of it.
pub const SWARM_CELLS: u64 = 1 << 30;
/// What a planner keeps of each piece whatever the number of peers, in cells of two bits: counts of holders, and what
/// is open. Together 13 bytes.
pub const SWARM_BOOK_CELLS: u64 = 64;
/// Cells of all swarms of an index: half a gigabyte. Those that come when it is used up act alone.
pub const SWARM_CELLS_IN_ALL: u64 = 1 << 31;
/// Pieces of all swarms that one member takes part in and is planned for: four of the largest blobs, or 500 of 16 GiB.
/// Where it takes part in more, it acts alone.
pub const SWARM_CELLS_PER_MEMBER: u64 = 1 << 23;
/// Microseconds of one core and second that an index plans at most: a fifth. Over that, swarms have their turns later, and
/// plans that nobody renews lapse.
pub const PLANNING_PER_SECOND: u64 = 200_000;
/// Peers of one swarm that are planned for; further ones act alone. Six times the 10,000 that it is made for.
pub const SWARM_PEERS: usize = 1 << 16;
/// No link in a swarm is taken for faster than this, in bytes per second: 100 Gbit/s, the fastest that machines have today.
/// Sums over all peers of a swarm stay far from the end of numbers, whatever peers report.
pub const FASTEST_RATE: u64 = 12_500_000_000;
/// Bytes per second assumed of a link of which nothing is known: 50 Mbit/s. Ten times too much is noticed within two windows,
/// too little doubles once a window.
pub const UPLINK_ASSUMED: u64 = 6_250_000;
/// How often a peer looks at what it sends, to find out what its uplink carries: two looks in what is measured.
pub const UPLINK_SAMPLE: Duration = Duration::from_millis(250);
/// An uplink has to be busy for so long before its rate is measured: several round trips, and many times what the timers miss.
pub const UPLINK_SPAN: Duration = Duration::from_millis(500);
/// … and as long as it stays busy, up to so much of it is measured in one: sockets take bytes in lumps of an eighth of a
/// mebibyte each, which are a quarter of what 20 Mbit/s carry in half a second.
pub const UPLINK_STRETCH: Duration = Duration::from_secs(2);
/// Different peers that have to be waiting for more from an uplink before it counts as busy: one alone may itself be slow.
pub const UPLINK_WITNESSES: usize = 2;
/// Of so many busy seconds the best stretch counts. What a lump or a pause makes of the others is over by then, and a link that
/// has become slower is soon known.
pub const UPLINK_LOOKBACK: Duration = Duration::from_secs(5);
/// How long the rate of an uplink counts that nothing was learned of since. Links stay as they are for months, but machines are
/// carried from one to another between two halves of a day; until the next upload a wrong rate costs some seconds.
pub const UPLINK_MEMORY: Duration = Duration::from_hours(4);
/// Connections over which a peer fetches from one provider at most: as many as downloaders commonly use, so that others who
/// share a link with it lose no more to it than to them.
pub const CONNECTIONS_PER_PROVIDER: usize = 4;
/// A peer whose full uplink carries so many bytes per second, 20 Mbit/s, fetches over two connections, over more the slower it
/// is, and over one if it is faster. Its acknowledgements wait behind what it sends: at this rate 100 kB in front of a link are 40 ms,
/// as much as the round trips of those with faster links were in the measured swarm (docs/swarm.md).
pub const UPLINK_OF_TWO_CONNECTIONS: u64 = 2_500_000;
/// Change of an uplink's rate that the index is told of: a part of so many. Less is noise, and below what plans can use.
pub const UPLINK_NEWS: u64 = 20;
/// Places in swarms for which the index is told of a changed uplink alone, at each look; others wait for the next, or for news
/// of their pieces. Requests about swarms go one after the other, and pieces should wait for few.
pub const UPLINK_TELLINGS: u32 = 8;
/// Sources that failed one sink and that its plans avoid; the oldest are forgiven.
pub const SOURCES_AVOIDED: usize = 8;
/// Sinks that a source fails before its have-set is struck out: one may itself be at fault. In swarms of 64 sinks it is one
/// more, and another for each doubling.
pub const STRIKES: usize = 2;
/// How long a failure counts: the sink avoids the source, and the source may be struck out by it. It is twice as long each time
/// that it happens again, up to a quarter of an hour. Long enough that a liar costs little, short enough that members who
/// accuse the only source wrongly do not keep others from it.
pub const FAILURE_LAPSE: Duration = Duration::from_mins(1);
/// Sinks that are remembered of one source that failed: more than strike it out in the largest swarm.
pub const FAILURES_KEPT: usize = 64;

/// Most bytes that a limit of bandwidth lets through at once after a pause: 50 ms of 80 MB/s. Above that rate the burst is
/// shorter in time, and still many times what the timers miss.
pub const RATE_BURST_BYTES: u64 = 4 * 1024 * 1024;
/// Rules of bandwidth that one peer keeps: some for each of its groups and transfers.
pub const RATE_RULES: usize = 1_000;
/// Streams of bytes that a peer serves at once. A source in a swarm has that many requests open with all its neighbours;
/// each stream may hold 2 MiB that the asker does not take.
pub const UPLOAD_SLOTS: usize = 128;
/// Requests of one user that wait for a slot, over all its peers: as many as one connection has unanswered.
pub const SLOT_WAITS_PER_USER: usize = REQUESTS_IN_FLIGHT;
/// Requests that wait for a slot in all. A request that waits is some kilobytes at most.
pub const SLOT_WAITS: usize = 4_096;
/// How often who waits for a slot hears its place. Below the time after which an asker takes silence for a stall.
pub const SLOT_NEWS: Duration = Duration::from_secs(1);
/// Least rate that is worth a slot: with a limit of bandwidth there are so many slots that each has a leaf per second, and
/// no asker takes its source for dead.
pub const SLOT_RATE: u64 = LEAF_BYTES;

const _: () = {
    assert!(RATE_BURST_BYTES >= 2 * LEAF_BYTES);
    assert!(UPLOAD_SLOTS >= 4 * SWARM_NEIGHBOURS);
    assert!(SLOT_WAITS >= SLOT_WAITS_PER_USER);
    assert!(FRAME_BYTES_BEFORE_MEMBERSHIP < FRAME_BYTES);
    assert!(PAGE_BYTES + 64 < FRAME_BYTES);
    assert!(LEAF_BYTES as usize + 64 < FRAME_BYTES);
    assert!(STREAM_WINDOW_BYTES as u64 >= 4 * LEAF_BYTES);
    assert!(OUTPUT_QUEUE_BYTES > STREAM_WINDOW_BYTES as usize);
    assert!(OUTPUT_QUEUE_BYTES >= 4 * FRAME_BYTES);
    assert!(REQUEST_BYTES_IN_FLIGHT >= 2 * PAGES_IN_FLIGHT * PAGE_BYTES);
    assert!(STREAM_WINDOW_BYTES as usize > FRAME_BYTES + DATA_FRAME_COST as usize);
    assert!(SHEET_LEAVES * 32 < FRAME_BYTES as u64);
    assert!(SHEET_LEAVES.is_power_of_two() && ROOT_SHEET_ENTRIES.is_power_of_two());
    assert!(NAME_BYTES <= PATH_BYTES);
    // The longest directory and the longest entry fit on one page.
    assert!(PATH_BYTES + NAME_BYTES + LINK_TARGET_BYTES + 64 < PAGE_BYTES);
    assert!(LOOKUP_KEYS * NAME_BYTES < FRAME_BYTES);
    assert!(SMALL_BLOBS * 32 < FRAME_BYTES);
    assert!(LEASE.as_secs() >= 3 * LEASE_RENEWAL.as_secs());
    assert!(AMEND_ENTRIES >= WALK_COMMIT_ENTRIES);
    assert!(PLAN_LEASE.as_millis() >= 10 * PLAN_INTERVAL.as_millis());
    assert!(
        UPLINK_STRETCH.as_millis() > UPLINK_SPAN.as_millis()
            && UPLINK_LOOKBACK.as_millis() > UPLINK_STRETCH.as_millis()
    );
    assert!(UPLINK_SPAN.as_millis() >= 2 * UPLINK_SAMPLE.as_millis());
    assert!(SWARM_CELLS <= SWARM_CELLS_IN_ALL);
    // A planner multiplies a rate by the places in all trees, a few for each peer.
    assert!(FASTEST_RATE < u64::MAX / (64 * SWARM_PEERS as u64));
    assert!(REVOKED_LISTED * (32 + 10) < FRAME_BYTES / 2);
};
