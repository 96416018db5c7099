//! The clients: some hundred people with a device each, on TCP and WebSocket, who come and go as they are told and note
//! everything that happens to them.

mod line;
mod person;
mod record;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use contract::Transport;
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};

pub use self::person::Leave;
use self::{
    person::{Do, Person, Who},
    record::Record,
};
use crate::{
    clock::{ms, now},
    ledger::{Connection, Online},
    world::World,
};

/// Where a comet's clients connect.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// TCP.
    pub tcp: SocketAddr,
    /// WebSocket.
    pub ws: SocketAddr,
}

/// The type of all rooms.
pub const ROOM_TYPE: &str = "live";

/// What a crowd is like.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// People. Two of them are one user each, with a device on TCP and one on WebSocket.
    pub people: usize,
    /// First rooms. Everybody is in one of these, and in one of half as many second rooms.
    pub rooms: usize,
}

impl Default for Habits {
    fn default() -> Self {
        Habits { people: 120, rooms: 8 }
    }
}

/// People by number, from 0.
pub struct Crowd {
    habits: Habits,
    gates: Arc<[Gate]>,
    people: Vec<(Who, Record, mpsc::Sender<Do>)>,
    /// Names of comets in the cluster, by number.
    names: Vec<String>,
}

impl Crowd {
    /// A crowd that stands before the comets of a world.
    pub fn new(world: &World, habits: Habits) -> Crowd {
        let gate = |comet: &crate::world::Program| Gate { tcp: comet.ports.tcp, ws: comet.ports.ws };
        let gates: Arc<[Gate]> = world.comets.iter().map(gate).collect();
        let names = world.comets.iter().map(|comet| comet.ports.rpc.to_string()).collect();
        let door = Arc::new(Mutex::new(now()));
        let person = |n: usize| {
            let who = Who {
                key: Arc::from(format!("k{n}")),
                mid: (n / 2) as i64 + 1,
                transport: if n.is_multiple_of(2) { Transport::Tcp } else { Transport::WebSocket },
                second_room: Arc::from(format!("{ROOM_TYPE}://b{}", n % (habits.rooms / 2).max(1))),
                gates: Arc::clone(&gates),
                door: Arc::clone(&door),
            };
            let (todo, doing) = mpsc::channel(16);
            let record = Record::default();
            let room = first_room(n % habits.rooms);
            tokio::spawn(Person::new(who.clone(), room, record.clone()).live(doing));
            (who, record, todo)
        };
        Crowd { habits, people: (0..habits.people).map(person).collect(), names, gates }
    }

    /// How many people there are.
    pub fn len(&self) -> usize {
        self.people.len()
    }

    /// Whether there is nobody at all.
    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// How many comets they know.
    pub fn comets(&self) -> usize {
        self.gates.len()
    }

    async fn tell(&self, n: usize, todo: Do) {
        // A person lives as long as the crowd.
        let _ = self.people[n].2.send(todo).await;
    }

    /// This person comes to a comet, or to another one when that does not let it in, and stays connected.
    pub async fn come(&self, n: usize, comet: usize) {
        self.tell(n, Do::Come(comet)).await;
    }

    /// This person leaves.
    pub async fn go(&self, n: usize, how: Leave) {
        self.tell(n, Do::Go(how)).await;
    }

    /// This person logs in once more while it is connected: on the same comet it is replaced, on another it moves.
    pub async fn log_in_again(&self, n: usize, comet: usize) {
        self.tell(n, Do::LogIn(comet)).await;
    }

    /// This person changes its first room.
    pub async fn change_room(&self, n: usize, room: usize) {
        self.tell(n, Do::Room(first_room(room % self.habits.rooms))).await;
    }

    /// The comet on which this person is connected.
    pub fn comet_of(&self, n: usize) -> Option<usize> {
        self.people[n].1.lock().now().map(|connection| connection.comet)
    }

    /// Everybody comes, evenly over the comets, and is in before `limit` is over; else who is not.
    ///
    /// # Errors
    /// The people that are not in, and why.
    pub async fn all_come(&self, limit: Duration) -> Result<(), Vec<String>> {
        for n in 0..self.len() {
            if self.comet_of(n).is_none() {
                self.come(n, n / 2 % self.comets()).await;
            }
        }
        // Who was told to come begins to want it a moment later.
        let all_in = async {
            while (0..self.len()).any(|n| self.comet_of(n).is_none()) {
                sleep(ms(50)).await;
            }
        };
        match timeout(limit, all_in).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.missing()),
        }
    }

    /// Everybody is connected, evenly over the comets, before `limit` is over.
    ///
    /// # Errors
    /// The people that are not in, and why.
    pub async fn spread(&self, limit: Duration) -> Result<(), Vec<String>> {
        let home = |n: usize| n / 2 % self.comets();
        for n in 0..self.len() {
            match self.comet_of(n) {
                Some(comet) if comet == home(n) => {}
                Some(_) => self.log_in_again(n, home(n)).await,
                None => self.come(n, home(n)).await,
            }
        }
        let all_in = async {
            while (0..self.len()).any(|n| self.comet_of(n) != Some(home(n))) {
                sleep(ms(50)).await;
            }
        };
        match timeout(limit, all_in).await {
            Ok(()) => Ok(()),
            // Where they are is of no importance.
            Err(_) => self.all_come(ms(100)).await,
        }
    }

    /// People who want to be connected and are not, or were sent away for good though nobody took their place.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.people.iter().filter_map(|(who, record, _)| {
            let notes = record.lock();
            if let Some(why) = &notes.sent_away {
                return Some(format!("{} was sent away for good: {why}", who.key));
            }
            (notes.is_coming && notes.now().is_none()).then(|| {
                let failure = notes.last_failure.as_deref().unwrap_or("it is on its way");
                format!("{} is not connected: {failure}", who.key)
            })
        });
        missing.collect()
    }

    /// The connections that are open and the newest of their person, with the rooms they are in now.
    pub fn present(&self) -> Vec<Connection> {
        let mut present: Vec<Connection> =
            self.people.iter().filter_map(|(_, record, _)| record.lock().now().cloned()).collect();
        for connection in &mut present {
            connection.stays.retain(|stay| stay.until.is_none());
        }
        present
    }

    /// Whom the server sent away for good comes again.
    pub async fn call_back(&self) {
        for n in 0..self.len() {
            if self.people[n].1.lock().sent_away.is_some() {
                self.come(n, n / 2 % self.comets()).await;
            }
        }
    }

    /// Waits until nobody has received anything for a while; at most ten times as long.
    pub async fn quiet(&self, pause: Duration) {
        let count = || {
            let of = |record: &Record| {
                record.lock().all().map(|connection| connection.received.len()).sum::<usize>()
            };
            self.people.iter().map(|(_, record, _)| of(record)).sum::<usize>()
        };
        let mut before = count();
        for _ in 0..10 {
            sleep(pause).await;
            let after = count();
            if after == before {
                return;
            }
            before = after;
        }
    }

    /// Begins a new story.
    pub fn forget(&self) {
        self.people.iter().for_each(|(_, record, _)| record.lock().forget());
    }

    /// Every connection of this story.
    pub fn story(&self) -> Vec<Connection> {
        let all = |record: &Record| record.lock().all().cloned().collect::<Vec<_>>();
        self.people.iter().flat_map(|(_, record, _)| all(record)).collect()
    }

    /// Who is there, as the online API should say it.
    pub fn truth(&self) -> Online {
        let rooms = (0..self.habits.rooms).map(|room| (first_room(room), 0)).collect();
        let mut truth = Online { rooms, ..Online::default() };
        for (who, record, _) in &self.people {
            let notes = record.lock();
            let now = notes.now();
            truth
                .keys
                .insert(who.key.to_string(), now.map(|connection| self.names[connection.comet].clone()));
            let Some(now) = now else { continue };
            truth.total += 1;
            for stay in now.stays.iter().filter(|stay| stay.until.is_none()) {
                *truth.rooms.entry(stay.room.to_string()).or_default() += 1;
            }
        }
        truth
    }

    /// Every device key.
    pub fn keys(&self) -> Vec<Arc<str>> {
        self.people.iter().map(|(who, ..)| Arc::clone(&who.key)).collect()
    }

    /// Every user.
    pub fn mids(&self) -> Vec<i64> {
        let mut mids: Vec<i64> = self.people.iter().map(|(who, ..)| who.mid).collect();
        mids.dedup();
        mids
    }

    /// Every room that somebody may be in.
    pub fn rooms(&self) -> Vec<Arc<str>> {
        let second = self.people.iter().map(|(who, ..)| Arc::clone(&who.second_room));
        let mut rooms: Vec<Arc<str>> = (0..self.habits.rooms).map(|n| Arc::from(first_room(n))).collect();
        rooms.extend(second);
        rooms.sort();
        rooms.dedup();
        rooms
    }
}

fn first_room(n: usize) -> String {
    format!("{ROOM_TYPE}://a{n}")
}
