//! The room of all classes, as far as their groups tell of it in time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};

use crate::{
    daemon::ClassSpace,
    groups::{Class, Groups},
};

/// How long a scrape waits for LVM: well below the 10 s that Prometheus usually waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who asks the groups for metrics.
pub(super) struct Rooms(Vec<Group>);

/// One group, and the question that is under way, if one is: scrapes that come meanwhile wait for
/// its answer, so that a slow group is not asked ever more often.
struct Group {
    name: String,
    ask: Box<dyn Fn() -> Question + Send + Sync>,
    under_way: Mutex<Option<Question>>,
}

type Question = Shared<BoxFuture<'static, Arc<Vec<ClassSpace>>>>;

impl Rooms {
    pub(super) fn of(groups: &Groups) -> Self {
        let mut classes_of: BTreeMap<&str, Vec<Class>> = BTreeMap::new();
        for class in groups.classes() {
            let name = &class.config.volume_group;
            classes_of.entry(name).or_default().push(class.clone());
        }
        let asked = classes_of
            .into_iter()
            .map(|(name, classes)| Group::new(name, move || ask(classes.clone())));
        Self(asked.collect())
    }

    /// What the groups answer in time; those that do not are left out.
    pub(super) async fn ask(&self) -> Vec<Arc<Vec<ClassSpace>>> {
        let answers = join_all(self.0.iter().map(Group::ask)).await;
        answers.into_iter().flatten().collect()
    }
}

impl Group {
    fn new<A>(name: &str, ask: impl Fn() -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Vec<ClassSpace>> + Send + 'static,
    {
        Self {
            name: name.to_owned(),
            // A task of its own, for it goes on when nobody waits any more.
            ask: Box::new(move || {
                let asked = tokio::spawn(ask());
                let answer = asked.map(|answer| Arc::new(answer.unwrap_or_default()));
                answer.boxed().shared()
            }),
            under_way: Mutex::default(),
        }
    }

    async fn ask(&self) -> Option<Arc<Vec<ClassSpace>>> {
        let answer = tokio::time::timeout(PATIENCE, self.question()).await;
        if answer.is_err() {
            tracing::warn!(group = self.name, "no answer in time for metrics");
        }
        answer.ok()
    }

    /// The question under way, or a new one.
    fn question(&self) -> Question {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match under_way.as_ref() {
            Some(question) if question.peek().is_none() => question.clone(),
            _ => under_way.insert((self.ask)()).clone(),
        }
    }
}

/// One class after the other, for each is a report of LVM.
async fn ask(classes: Vec<Class>) -> Vec<ClassSpace> {
    let mut spaces = Vec::new();
    for class in &classes {
        match ClassSpace::of(class).await {
            Ok(space) => spaces.push(space),
            Err(error) => {
                tracing::warn!(class = class.config.name, %error, "no room for metrics");
            }
        }
    }
    spaces
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use tokio::sync::Semaphore;

    use super::*;
    use crate::volume::FreeSpace;

    fn space() -> ClassSpace {
        ClassSpace {
            name: "slow".to_owned(),
            default: true,
            free_bytes: 1,
            group: FreeSpace {
                free_bytes: 1,
                size_bytes: 2,
                snapshots_bytes: 0,
                pool: None,
            },
        }
    }

    #[tokio::test]
    async fn a_group_that_does_not_answer_is_left_out_in_time_and_asked_once() {
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, gate) = (Arc::clone(&asked), Arc::clone(&answers));
        let slow = Group::new("slow", move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("nobody closes it").forget();
                vec![space()]
            }
        });
        let quick = Group::new("quick", || async { Vec::new() });
        let rooms = Rooms(vec![slow, quick]);
        let began = Instant::now();
        let (one, other) = tokio::join!(rooms.ask(), rooms.ask());
        assert!(began.elapsed() < PATIENCE * 3);
        assert_eq!((one.len(), other.len()), (1, 1), "the quick one alone");
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        answers.add_permits(1);
        let late = rooms.ask().await;
        assert_eq!(late.iter().map(|it| it.len()).sum::<usize>(), 1);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the same question");
        answers.add_permits(1);
        rooms.ask().await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "a new one");
    }
}
