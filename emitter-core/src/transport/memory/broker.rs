//! The broker's state: its clients, who may connect, and what was published. No I/O.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::faults::Faults;
use super::session::Session;
use super::{LOG_BOUND, Published, SESSION_BOUND};
use crate::topic::TopicFilter;
use crate::transport::Message;

/// Shared by the handles, the links and the acknowledgements.
pub(super) struct Broker {
    faults: Faults,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: HashMap<String, Client>,
    /// Clients that may not connect.
    held: HashSet<String>,
    paused: bool,
    log: VecDeque<Published>,
    /// The last message of each topic that is to be kept for later subscribers.
    retained: BTreeMap<String, Published>,
    connections: u64,
    /// Messages that were shared out so far: whose turn it is.
    shared: usize,
}

/// A client that has connected once.
struct Client {
    session: Session,
    /// It is handed what was retained before it subscribed.
    hears_retained: bool,
    /// With whom it shares messages.
    share: Option<String>,
    member: Member,
    /// How often its links were cut from outside. A link of before a cut is broken.
    cuts: u64,
}

/// A client's present transport.
#[derive(Clone)]
pub(super) struct Member {
    /// The how-many-eth transport of this client it is. An earlier one has been taken over.
    pub(super) life: u64,
    /// Wakes its publishing link.
    pub(super) publisher: Arc<Notify>,
    /// Wakes its subscribing link.
    pub(super) subscriber: Arc<Notify>,
}

/// An open connection of one link. It breaks when the client is cut or taken over.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) client: Arc<str>,
    pub(super) life: u64,
    /// Unique among all connections of this broker.
    pub(super) connection: u64,
    cuts: u64,
}

/// Whether a link may connect.
pub(super) enum Admission {
    Open(Ticket),
    /// Not now; its member is woken when it may.
    Away,
    TakenOver,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What the broker says to a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Taken for so many sessions.
    Taken(usize),
    /// A session that wants it is full; none has got it.
    Full,
}

impl Broker {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, state: Mutex::default() }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// A new transport for a client; an older one is taken over.
    pub(super) fn join(&self, name: &str, hears_retained: bool, share: Option<&str>) -> Member {
        let mut state = self.lock();
        let life = state.clients.get(name).map_or(0, |client| client.member.life + 1);
        let member = Member { life, publisher: Arc::default(), subscriber: Arc::default() };
        match state.clients.get_mut(name) {
            Some(client) => {
                client.cut();
                client.member = member.clone();
            }
            None => {
                let (session, share) = (Session::new(SESSION_BOUND), share.map(str::to_owned));
                let client = Client { session, hears_retained, share, member: member.clone(), cuts: 0 };
                state.clients.insert(name.to_owned(), client);
            }
        }
        member
    }

    /// Asks for a connection of one link.
    pub(super) fn admit(&self, name: &Arc<str>, life: u64) -> Admission {
        let mut state = self.lock();
        state.connections += 1;
        let (connection, held) = (state.connections, state.paused || state.held.contains(&**name));
        match state.clients.get(&**name) {
            Some(client) if client.member.life != life => Admission::TakenOver,
            // Held, or forgotten within this call; either way it is asked again.
            None => Admission::Away,
            Some(_) if held => Admission::Away,
            Some(client) => {
                Admission::Open(Ticket { client: Arc::clone(name), life, connection, cuts: client.cuts })
            }
        }
    }

    /// Hands out what is retained for a filter that was subscribed to.
    pub(super) fn hand_out_retained(&self, ticket: &Ticket, filter: &TopicFilter) -> Result<(), Gone> {
        let mut state = self.lock();
        let State { clients, retained, .. } = &mut *state;
        let client = connected(clients, ticket)?;
        if client.hears_retained {
            for message in retained.values().filter(|message| filter.matches(&message.topic)) {
                client.session.push(message);
            }
        }
        Ok(())
    }

    /// Does something with the session, as long as the connection is up.
    pub(super) fn session<R>(&self, ticket: &Ticket, act: impl FnOnce(&mut Session) -> R) -> Result<R, Gone> {
        self.lock().connected(ticket).map(|client| act(&mut client.session))
    }

    /// A publish over a link.
    pub(super) fn publish(&self, ticket: &Ticket, message: &Message) -> Result<Answer, Gone> {
        let mut state = self.lock();
        state.connected(ticket)?;
        let published = Published {
            topic: message.topic.to_string(),
            payload: message.payload.clone(),
            properties: message.properties.clone(),
        };
        if message.retain {
            state.retain(&published);
        }
        Ok(state.route(&published))
    }

    /// The client is done with a delivery of this connection.
    pub(super) fn done(&self, ticket: &Ticket, number: u64) {
        if let Ok(client) = self.lock().connected(ticket) {
            client.session.done(ticket.connection, number);
            client.member.subscriber.notify_one();
        }
    }

    pub(super) fn inject(&self, message: &Published) -> usize {
        match self.lock().route(message) {
            Answer::Taken(sessions) => sessions,
            Answer::Full => 0,
        }
    }

    pub(super) fn send(&self, name: &str, message: &Published) -> bool {
        let mut state = self.lock();
        let Some(client) = state.clients.get_mut(name) else { return false };
        let took = client.session.push(message);
        client.member.subscriber.notify_one();
        took
    }

    pub(super) fn hold(&self, name: &str) {
        let mut state = self.lock();
        state.held.insert(name.to_owned());
        if let Some(client) = state.clients.get_mut(name) {
            client.cut();
        }
    }

    pub(super) fn release(&self, name: &str) {
        let mut state = self.lock();
        state.held.remove(name);
        if let Some(client) = state.clients.get(name) {
            client.wake();
        }
    }

    pub(super) fn pause(&self) {
        let mut state = self.lock();
        state.paused = true;
        state.clients.values_mut().for_each(Client::cut);
    }

    pub(super) fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        state.clients.values().for_each(Client::wake);
    }

    pub(super) fn forget(&self, name: &str) {
        if let Some(client) = self.lock().clients.get_mut(name) {
            client.session = Session::new(SESSION_BOUND);
            client.cut();
        }
    }

    pub(super) fn published(&self) -> Vec<Published> {
        self.lock().log.iter().cloned().collect()
    }

    pub(super) fn subscriptions(&self, name: &str) -> Vec<String> {
        let state = self.lock();
        state
            .clients
            .get(name)
            .into_iter()
            .flat_map(|client| client.session.filters())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn unacknowledged(&self, name: &str) -> usize {
        self.lock().clients.get(name).map_or(0, |client| client.session.unacknowledged())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn connected(&mut self, ticket: &Ticket) -> Result<&mut Client, Gone> {
        connected(&mut self.clients, ticket)
    }

    /// Keeps the message in place of the one before; one without a payload ends that.
    fn retain(&mut self, message: &Published) {
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else {
            self.retained.insert(message.topic.clone(), message.clone());
        }
    }

    /// Puts a message into every session that wants it, of those that share into one, or into none.
    fn route(&mut self, message: &Published) -> Answer {
        let takers = self.takers(&message.topic);
        let is_full = |name: &String| self.clients.get(name).is_some_and(|client| client.session.is_full());
        if takers.iter().any(is_full) {
            return Answer::Full;
        }
        let sessions = takers.len();
        for name in takers {
            if let Some(client) = self.clients.get_mut(&name) {
                client.session.push(message);
                client.member.subscriber.notify_one();
            }
        }
        if self.log.len() == LOG_BOUND {
            self.log.pop_front();
        }
        self.log.push_back(message.clone());
        Answer::Taken(sessions)
    }
}

impl State {
    /// The clients that a message is for. Members of a group take turns.
    fn takers(&mut self, topic: &str) -> Vec<String> {
        let (mut takers, mut groups) = (Vec::new(), BTreeMap::<&str, Vec<&String>>::new());
        for (name, client) in self.clients.iter().filter(|(_, client)| client.session.wants(topic)) {
            match &client.share {
                None => takers.push(name.clone()),
                Some(share) => groups.entry(share).or_default().push(name),
            }
        }
        for (turn, mut members) in (self.shared..).zip(groups.into_values()) {
            members.sort_unstable();
            takers.extend(members.get(turn % members.len()).map(|name| (*name).clone()));
        }
        self.shared = self.shared.wrapping_add(1);
        takers
    }
}

fn connected<'c>(clients: &'c mut HashMap<String, Client>, ticket: &Ticket) -> Result<&'c mut Client, Gone> {
    let client = clients.get_mut(&*ticket.client).ok_or(Gone)?;
    let up = client.member.life == ticket.life && client.cuts == ticket.cuts;
    if up { Ok(client) } else { Err(Gone) }
}

impl Client {
    /// Breaks its links.
    fn cut(&mut self) {
        self.cuts += 1;
        self.wake();
    }

    fn wake(&self) {
        self.member.publisher.notify_one();
        self.member.subscriber.notify_one();
    }
}
