//! Two clients, a store, and requests that may be late or come twice.
//!
//! An entry is modelled as the chain of all commits up to it: that is what its hash stands for. What a
//! client does between two requests is one step; between any two of its steps the others may do
//! any number, so every client sleeps for as long as it does harm. A request once sent may arrive
//! at any time, and again; a client that waits for an answer may go on without it at any time.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

/// A mistake in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// Slots die under the highest checkpoint.
    TruncateUnderHighest,
    /// An append counts when its PUT says "created".
    NoReadBack,
    /// Slots die by a checkpoint whose PUT is still on the way.
    DeleteBeforeDurable,
}

/// A backup: its name, and a number that no other try has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Commit {
    name: u8,
    id: u8,
}

type Chain = Vec<Commit>;
type Slot = usize;

/// What may arrive, at any time and more than once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Request {
    /// If the slot is free, which is the one of the chain's length.
    Entry(Chain),
    /// If there is none of that slot.
    Checkpoint(Chain),
    Delete(Slot),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// With nothing to do, or about to decide.
    Idle,
    /// The entry was sent; the answer may be lost.
    Sent,
    /// What was listed behind the head is fetched. Should it turn out not to be there, or not to
    /// fit, a checkpoint above `base` says why.
    Following { listed: Vec<Slot>, base: Slot },
    /// To list the checkpoints, of which one above `base` must be there.
    Rebasing { base: Slot },
    /// To read this one, and then to list the log.
    Summed { checkpoint: Slot },
    /// The own entry was seen in this slot.
    Seen(Slot),
    /// The append counts.
    Counted,
    /// The checkpoint was sent.
    Summing,
    /// To delete entries up to a slot.
    Truncating { up_to: Slot },
    /// Damage that nothing explains.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Client {
    phase: Phase,
    history: Chain,
    /// What it tries to append.
    tried: Option<Commit>,
    /// The slot it last tried.
    slot: Slot,
    /// The next replay decides whether the append counts.
    confirms: bool,
    /// How many of its names it is done with.
    names_done: usize,
    acknowledged: Vec<Commit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    log: BTreeMap<Slot, Chain>,
    checkpoints: BTreeMap<Slot, Chain>,
    sent: BTreeSet<Request>,
    clients: Vec<Client>,
    ids: u8,
    /// All that was ever appended, as an observer knows who sees everything.
    truth: Chain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Arrive(Request),
    /// The client's next step.
    Step(usize),
    /// The client, having time, writes a checkpoint.
    Sum(usize),
    /// The client leaves what it is doing.
    GiveUp(usize),
}

/// What the clients are to append, by name.
pub(crate) struct Protocol {
    pub(crate) names: Vec<Vec<u8>>,
    /// A client whose PUT got lost begins anew, as long as there were not so many tries by all.
    pub(crate) tries_max: u8,
    pub(crate) mistake: Mistake,
}

impl State {
    fn highest(&self) -> Slot {
        self.checkpoints.keys().last().copied().unwrap_or(0)
    }

    fn listed_behind(&self, head: Slot) -> Vec<Slot> {
        self.log.range(head + 1..).map(|(slot, _)| *slot).collect()
    }

    /// What a reader finds, if this checkpoint (0: none) is damaged; `None`: it refuses the log.
    fn replay(&self, damaged: Slot) -> Option<Chain> {
        let whole = self.checkpoints.iter().rev().find(|it| *it.0 != damaged);
        let mut chain = whole.map(|it| it.1.clone()).unwrap_or_default();
        for slot in self.listed_behind(chain.len()) {
            chain = continued(&chain, slot, self.log.get(&slot))?;
        }
        (chain.len() >= damaged).then_some(chain)
    }

    /// Every reader finds what was appended, whichever one checkpoint is damaged.
    fn is_readable(&self) -> bool {
        let damaged = self.checkpoints.keys().copied().chain([0]);
        damaged
            .map(|damaged| self.replay(damaged))
            .all(|found| found.as_ref() == Some(&self.truth))
    }

    fn acknowledged(&self) -> impl Iterator<Item = &Commit> {
        self.clients.iter().flat_map(|it| &it.acknowledged)
    }

    fn arrive(&mut self, request: &Request, mistake: Mistake) {
        match request {
            Request::Entry(chain) => {
                let slot = chain.len();
                if self.log.contains_key(&slot) {
                    return;
                }
                self.log.insert(slot, chain.clone());
                if slot == self.truth.len() + 1 && chain.starts_with(&self.truth) {
                    self.truth.clone_from(chain);
                }
                if mistake == Mistake::NoReadBack {
                    let waits = |it: &&mut Client| it.phase == Phase::Sent && it.slot == slot;
                    let writer = self.clients.iter_mut().filter(waits);
                    for client in writer.filter(|it| it.tried.as_ref() == chain.last()) {
                        client.history.clone_from(chain);
                        client.count();
                    }
                }
            }
            Request::Checkpoint(chain) => {
                self.checkpoints
                    .entry(chain.len())
                    .or_insert_with(|| chain.clone());
            }
            Request::Delete(slot) => {
                self.log.remove(slot);
            }
        }
    }

    fn step(&mut self, at: usize, protocol: &Protocol) {
        let mut client = self.clients[at].clone();
        match client.phase.clone() {
            Phase::Idle | Phase::Counted => self.decide(&mut client, protocol, at),
            // Answered or not, the log tells.
            Phase::Sent => self.list(&mut client, None),
            Phase::Following { listed, base } => self.fetch(&mut client, &listed, base),
            Phase::Rebasing { base } => {
                let checkpoint = self.highest();
                client.phase = if checkpoint > base {
                    Phase::Summed { checkpoint }
                } else {
                    Phase::Broken
                };
            }
            Phase::Summed { checkpoint } => {
                client.history.clone_from(&self.checkpoints[&checkpoint]);
                self.list(&mut client, Some(checkpoint));
            }
            Phase::Seen(slot) if self.highest() < slot => client.count(),
            Phase::Seen(_) => {
                client.confirms = true;
                client.phase = Phase::Rebasing { base: 0 };
            }
            Phase::Summing => self.begin_to_truncate(&mut client, protocol.mistake),
            Phase::Truncating { up_to } => match self.log.keys().next() {
                Some(&slot) if slot <= up_to => {
                    self.log.remove(&slot);
                    self.sent.insert(Request::Delete(slot));
                }
                _ => client.phase = Phase::Idle,
            },
            Phase::Broken => {}
        }
        self.clients[at] = client;
    }

    /// Sends an entry for the slot behind the head, with the first name that is free.
    fn decide(&mut self, client: &mut Client, protocol: &Protocol, at: usize) {
        client.phase = Phase::Idle;
        let is_taken = |name: u8| client.history.iter().any(|it| it.name == name);
        let names = &protocol.names[at];
        while let Some(&name) = names.get(client.names_done) {
            if !is_taken(name) {
                return self.send(client, name, protocol.tries_max);
            }
            client.tried = None;
            client.names_done += 1;
        }
    }

    fn send(&mut self, client: &mut Client, name: u8, tries_max: u8) {
        if client.tried.is_none() {
            if self.ids == tries_max {
                return;
            }
            self.ids += 1;
            client.tried = Some(Commit { name, id: self.ids });
        }
        let chain: Chain = client.history.iter().copied().chain(client.tried).collect();
        client.slot = chain.len();
        client.phase = Phase::Sent;
        self.sent.insert(Request::Entry(chain));
    }

    /// Lists the log behind the head; `rebased`: behind this checkpoint.
    fn list(&self, client: &mut Client, rebased: Option<Slot>) {
        let head = client.history.len();
        let listed = self.listed_behind(head);
        let base = rebased.unwrap_or(head);
        if (head + 1..).zip(&listed).all(|(next, slot)| next == *slot) {
            client.follow(listed, base);
        } else {
            client.phase = Phase::Rebasing { base };
        }
    }

    /// Fetches the next entry.
    fn fetch(&self, client: &mut Client, listed: &[Slot], base: Slot) {
        let (&slot, rest) = listed.split_first().expect("there are some to fetch");
        match continued(&client.history, slot, self.log.get(&slot)) {
            Some(chain) => {
                client.history = chain;
                client.follow(rest.to_vec(), base);
            }
            None => client.phase = Phase::Rebasing { base },
        }
    }

    fn begin_to_truncate(&self, client: &mut Client, mistake: Mistake) {
        let mut slots: BTreeSet<Slot> = self.checkpoints.keys().copied().collect();
        if mistake == Mistake::DeleteBeforeDurable {
            slots.insert(client.history.len());
        }
        let passed_over = usize::from(mistake != Mistake::TruncateUnderHighest);
        client.phase = match slots.iter().rev().nth(passed_over) {
            Some(&up_to) => Phase::Truncating { up_to },
            None => Phase::Idle,
        };
    }
}

impl Client {
    fn new() -> Self {
        Self {
            phase: Phase::Idle,
            history: Chain::new(),
            tried: None,
            slot: 0,
            confirms: false,
            names_done: 0,
            acknowledged: Vec::new(),
        }
    }

    /// With these to fetch; if there are none, with what the log says of the own entry.
    fn follow(&mut self, listed: Vec<Slot>, base: Slot) {
        if !listed.is_empty() {
            self.phase = Phase::Following { listed, base };
            return;
        }
        let own = self.tried.expect("there was a try");
        let found = self.history.iter().position(|it| *it == own);
        match found.map(|at| at + 1) {
            Some(_) if self.confirms => self.count(),
            Some(slot) => self.phase = Phase::Seen(slot),
            None => self.decide_again(),
        }
    }

    /// The append counts.
    fn count(&mut self) {
        self.acknowledged
            .push(self.tried.take().expect("there was a try"));
        self.confirms = false;
        self.names_done += 1;
        self.phase = Phase::Counted;
    }

    /// The own entry is not in the log.
    fn decide_again(&mut self) {
        self.confirms = false;
        self.phase = Phase::Idle;
        if self.history.len() < self.slot {
            // An answer was lost, and nothing is there: the job fails, and is begun anew.
            self.tried = None;
        }
    }
}

/// The chain with the entry found in the slot behind its head.
fn continued(chain: &Chain, slot: Slot, found: Option<&Chain>) -> Option<Chain> {
    let found = found?;
    let fits = slot == chain.len() + 1 && found.len() == slot && found.starts_with(chain);
    fits.then(|| found.clone())
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            sent: BTreeSet::new(),
            clients: vec![Client::new(); self.names.len()],
            ids: 0,
            truth: Chain::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.sent.iter().cloned().map(Action::Arrive));
        for (at, client) in state.clients.iter().enumerate() {
            actions.push(Action::Step(at));
            match client.phase {
                Phase::Counted => actions.push(Action::Sum(at)),
                Phase::Summing | Phase::Truncating { .. } => actions.push(Action::GiveUp(at)),
                _ => {}
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Arrive(request) => state.arrive(&request, self.mistake),
            Action::Step(at) => state.step(at, self),
            Action::Sum(at) => {
                let chain = state.clients[at].history.clone();
                state.sent.insert(Request::Checkpoint(chain));
                state.clients[at].phase = Phase::Summing;
            }
            Action::GiveUp(at) => state.clients[at].phase = Phase::Idle,
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "an acknowledged commit is in the log",
                |_, state: &State| state.acknowledged().all(|it| state.truth.contains(it)),
            ),
            Property::always(
                "every reader finds all that was appended",
                |_, state: &State| state.is_readable(),
            ),
            Property::always("no name is there twice", |_, state: &State| {
                let names: BTreeSet<u8> = state.truth.iter().map(|it| it.name).collect();
                names.len() == state.truth.len()
            }),
            Property::always("checkpoints say what was appended", |_, state: &State| {
                let mut checkpoints = state.checkpoints.values();
                checkpoints.all(|it| state.truth.starts_with(it))
            }),
            Property::always(
                "no client takes a whole log for damaged",
                |_, state: &State| state.clients.iter().all(|it| it.phase != Phase::Broken),
            ),
            Property::sometimes("an entry lies where nobody reads", |_, state: &State| {
                let mut entries = state.log.iter();
                entries.any(|(_, chain)| !state.truth.starts_with(chain))
            }),
            Property::sometimes(
                "all names are in, and the log is short",
                |model: &Self, state: &State| {
                    let done =
                        |(client, names): (&Client, &Vec<u8>)| client.names_done == names.len();
                    let all = state.clients.iter().zip(&model.names).all(done);
                    all && state.log.len() < state.truth.len()
                },
            ),
            Property::sometimes(
                "a checkpoint stands for an entry before its writer looks",
                |_, state: &State| {
                    state.clients.iter().any(|it| {
                        it.confirms && {
                            let own = it.tried.expect("there was a try");
                            state.truth.contains(&own)
                        }
                    })
                },
            ),
        ]
    }
}
