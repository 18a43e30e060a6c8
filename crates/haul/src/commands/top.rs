//! `haul top`: transfers, who gives, and rates on one screen, as they change. It asks the daemon once a second and draws
//! what it says; keys give the orders of `haul transfers`.

mod draw;
mod model;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::Record;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use model::{Order, Screen, Seen, Turn};

/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_secs(1);
/// A daemon that has not answered by then is said to be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// News that wait to be drawn.
const NEWS: usize = 16;

/// What comes from the daemon.
enum News {
    /// How everything is.
    Seen(Box<Seen>),
    /// The timeline of a transfer.
    Explained(u64, Vec<Record>),
    /// What came of an order.
    Said(String),
    /// The daemon does not answer.
    Silent(Failure),
}

/// Runs it until its user leaves.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    if !context.output.is_human() || !context.output.out_is_terminal || !std::io::stdin().is_terminal() {
        return Err(Failure::new(ErrorCode::Usage, "haul top draws on a terminal, and this is none")
            .next("for scripts: haul transfers --json, haul status --json"));
    }
    // Whoever has no daemon learns it as with every other verb, not on a screen.
    let first = look(context).await?;
    let mut screen = Screen::new(context.output.has_colors());
    screen.see(first, Instant::now());
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
    let mut terminal = Drawn::begin()?;
    follow(context, &mut screen, &mut terminal.0, &mut signals).await
}

/// A terminal that is as it was when this is dropped. A panic puts it back before its message is printed.
struct Drawn(DefaultTerminal);

impl Drawn {
    fn begin() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(|error| {
            ratatui::restore();
            Failure::new(ErrorCode::Usage, "this terminal cannot be drawn on").because(error).next("haul transfers")
        })
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        // Once more after a panic would put the cursor back to where it was, and what follows over the message.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

async fn follow(
    context: &Context,
    screen: &mut Screen,
    terminal: &mut DefaultTerminal,
    [terminate, hangup]: &mut [Signal; 2],
) -> Result<Exit, Failure> {
    let (sender, mut news) = mpsc::channel(NEWS);
    let again = Arc::new(Notify::new());
    // They end with this function.
    let mut tasks = JoinSet::new();
    tasks.spawn(looking(context.clone(), sender.clone(), Arc::clone(&again)));
    let mut events = EventStream::new();
    loop {
        terminal.draw(|frame| draw::screen(frame, screen)).map_err(lost)?;
        tokio::select! {
            said = news.recv() => match said {
                Some(News::Seen(seen)) => {
                    screen.see(*seen, Instant::now());
                    if let Some(order) = screen.watched() {
                        tasks.spawn(carry_out(context.clone(), order, sender.clone(), Arc::clone(&again)));
                    }
                }
                Some(News::Explained(id, records)) => screen.explain(id, records),
                Some(News::Said(text)) => screen.say(text),
                Some(News::Silent(failure)) => screen.silent = Some(failure.in_one_line()),
                None => return Err(Failure::new(ErrorCode::Internal, "nothing looks at the daemon any more")),
            },
            event = events.next() => {
                let Some(event) = event else { return Ok(Exit::DONE) };
                let Event::Key(key) = event.map_err(lost)? else { continue };
                if key.kind == KeyEventKind::Release {
                    continue;
                }
                if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
                    return Ok(Exit::INTERRUPTED);
                }
                match screen.key(key.code) {
                    Turn::Stay => {}
                    Turn::Leave => return Ok(Exit::DONE),
                    Turn::Order(order) => {
                        tasks.spawn(carry_out(context.clone(), order, sender.clone(), Arc::clone(&again)));
                    }
                }
            }
            // One that panicked has put the terminal back: nothing more is to be drawn.
            Some(ended) = tasks.join_next() => if let Err(error) = ended && error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            },
            _ = terminate.recv() => return Ok(Exit::TERMINATED),
            _ = hangup.recv() => return Ok(Exit::TERMINATED),
        }
    }
}

fn lost(error: std::io::Error) -> Failure {
    Failure::new(ErrorCode::Disk, "the terminal is gone").because(error)
}

/// Looks at the daemon again and again.
async fn looking(context: Context, news: mpsc::Sender<News>, again: Arc<Notify>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = again.notified() => {}
        }
        let said = match tokio::time::timeout(PATIENCE, look(&context)).await {
            Ok(Ok(seen)) => News::Seen(Box::new(seen)),
            Ok(Err(failure)) => News::Silent(failure),
            Err(_) => News::Silent(Failure::new(ErrorCode::Timeout, "the daemon does not answer")),
        };
        if news.send(said).await.is_err() {
            return;
        }
    }
}

async fn look(context: &Context) -> Result<Seen, Failure> {
    let lines = context.daemon().await?.get("/v1/activity").await?.all().await?;
    let mut seen = Seen::default();
    for line in lines {
        match line.record {
            Some(Record::Status(status)) => seen.status = *status,
            Some(Record::Transfer(transfer)) => seen.transfers.push(transfer),
            _ => {}
        }
    }
    Ok(seen)
}

async fn carry_out(context: Context, order: Order, news: mpsc::Sender<News>, again: Arc<Notify>) {
    let said = match tell(&context, &order).await {
        Ok(said) => said,
        Err(failure) => News::Said(failure.in_one_line()),
    };
    // If nobody listens any more the screen is gone.
    let _gone = news.send(said).await;
    if !matches!(order, Order::Explain(_)) {
        again.notify_one();
    }
}

async fn tell(context: &Context, order: &Order) -> Result<News, Failure> {
    let daemon = context.daemon().await?;
    let (id, verb) = match order {
        Order::Explain(id) => {
            let lines = daemon.get(&format!("/v1/transfers/{id}/timeline")).await?.all().await?;
            return Ok(News::Explained(*id, lines.into_iter().filter_map(|line| line.record).collect()));
        }
        Order::Pause(id) => (id, "pause"),
        Order::Resume(id) => (id, "resume"),
        Order::Retry(id) => (id, "retry"),
        Order::Cancel(id) => (id, "cancel"),
    };
    let lines = daemon.order(&format!("/v1/transfers/{id}/{verb}")).await?.all().await?;
    let changed = lines.into_iter().find_map(|line| match line.record {
        Some(Record::Changed(changed)) => Some(changed.message),
        _ => None,
    });
    Ok(News::Said(changed.unwrap_or_default()))
}
