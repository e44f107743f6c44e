//! The room of all classes, as far as their groups tell of it in time.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, join_all},
    stream::FuturesUnordered,
};

use crate::{
    failure::Failure,
    groups::{Class, Groups},
    volume::{self, FreeSpace},
};

/// The room of one class.
#[derive(Clone)]
pub struct ClassSpace {
    /// Its name.
    pub name: String,
    /// Whether it is the default one.
    pub default: bool,
    /// Free bytes, spare subtracted.
    pub free_bytes: u64,
    /// The room of its group, spare included.
    pub group: FreeSpace,
}

/// What there is to tell of all classes.
pub struct Told {
    /// Of those whose groups told of it, in the order configured.
    pub spaces: Vec<ClassSpace>,
    /// Whether these are all, and as they are now.
    pub is_whole: bool,
}

/// Who asks the groups.
pub struct Rooms {
    groups: Vec<Group>,
    /// All classes, in the order configured.
    order: Vec<String>,
}

/// One group, and the question that is under way, if one is: who asks meanwhile waits for its
/// answer, so that a slow group is not asked ever more often.
struct Group {
    name: String,
    /// Whether the default class is one of its own.
    has_default: bool,
    ask: Box<dyn Fn() -> BoxFuture<'static, Vec<Answer>> + Send + Sync>,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    under_way: Option<Question>,
    /// The last answer, if there was one.
    last: Option<Answers>,
}

type Question = Shared<BoxFuture<'static, Answers>>;
type Answers = Arc<Vec<Answer>>;

/// What is told of one class.
type Answer = Result<ClassSpace, Failure>;

/// What was last wrong with classes, by their names: it is logged when it changes.
type Complaints = Mutex<HashMap<String, String>>;

impl Rooms {
    /// Asks the groups of these classes.
    pub fn of(groups: &Groups) -> Self {
        let mut classes_of: BTreeMap<&str, Vec<Class>> = BTreeMap::new();
        for class in groups.classes() {
            let name = &class.config.volume_group;
            classes_of.entry(name).or_default().push(class.clone());
        }
        let asked = classes_of.into_iter().map(|(name, classes)| {
            let complaints = Arc::<Complaints>::default();
            let has_default = classes.iter().any(|class| class.config.default);
            let asking = move || ask(classes.clone(), Arc::clone(&complaints));
            Group::new(name, has_default, asking)
        });
        let names = groups.classes().iter().map(|it| it.config.name.clone());
        Self {
            groups: asked.collect(),
            order: names.collect(),
        }
    }

    /// What the groups answer in time. It may have been so some moments ago.
    pub async fn lately(&self, patience: Duration) -> Told {
        let answers = join_all(self.groups.iter().map(async |group| {
            let answer = tokio::time::timeout(patience, group.question()).await;
            if answer.is_err() {
                tracing::warn!(group = group.name, "no answer in time for metrics");
            }
            answer.ok()
        }))
        .await;
        let mut gathered = Gathered::default();
        for answer in answers.iter().flatten() {
            gathered.take(answer);
        }
        gathered.into_told(&self.order)
    }

    /// What the groups answer to questions that begin now, so that every change until now is in it. Of
    /// those that are silent for as long as `patience` says, what they said last: a group that is slow
    /// is not one without room. When there is nothing to tell of any group, why.
    pub async fn now(&self, patience: Duration) -> Result<Told, Failure> {
        let asked = self.groups.iter().map(async |group| {
            let under_way = lock(&group.said).under_way.clone();
            if let Some(earlier) = under_way {
                earlier.await;
            }
            (&group.name, group.question().await)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut silent: Vec<&Group> = self.groups.iter().collect();
        let mut gathered = Gathered::default();
        let (mut patience, mut waited) = (pin!(tokio::time::sleep(patience)), false);
        while !(waited && gathered.do_without(&silent)) {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((name, answer)) => {
                        silent.retain(|it| it.name != *name);
                        gathered.take(&answer);
                    }
                    None => break,
                },
                () = &mut patience, if !waited => waited = true,
            }
        }
        for group in silent {
            tracing::warn!(group = group.name, "no answer in time for watchers");
            gathered.take_late(group.last());
        }
        match gathered.failure.take() {
            Some(failure) if gathered.spaces.is_empty() => Err(failure),
            _ => Ok(gathered.into_told(&self.order)),
        }
    }
}

/// What some of the groups answered.
#[derive(Default)]
struct Gathered {
    spaces: Vec<ClassSpace>,
    failure: Option<Failure>,
    /// Whether something is from before.
    is_late: bool,
}

impl Gathered {
    fn take(&mut self, answers: &[Answer]) {
        for answer in answers {
            match answer {
                Ok(space) => self.spaces.push(space.clone()),
                Err(failure) => self.failure = Some(failure.clone()),
            }
        }
    }

    fn take_late(&mut self, last: Option<Answers>) {
        self.is_late = true;
        self.take(&last.unwrap_or_default());
    }

    /// Whether there is something to tell without these groups' answers, of the default class above all:
    /// who watches takes nothing for no room.
    fn do_without(&self, silent: &[&Group]) -> bool {
        let has_told = |group: &&Group| group.last().is_some_and(|it| it.iter().any(Result::is_ok));
        let is_needed = |group: &&Group| group.has_default && !has_told(group);
        !silent.iter().any(is_needed) && (!self.spaces.is_empty() || silent.iter().any(has_told))
    }

    fn into_told(mut self, order: &[String]) -> Told {
        let place = |space: &ClassSpace| order.iter().position(|name| *name == space.name);
        self.spaces.sort_by_key(place);
        Told {
            is_whole: self.spaces.len() == order.len() && !self.is_late,
            spaces: self.spaces,
        }
    }
}

impl Group {
    fn new<A>(name: &str, has_default: bool, ask: impl Fn() -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = Vec<Answer>> + Send + 'static,
    {
        Self {
            name: name.to_owned(),
            has_default,
            ask: Box::new(move || ask().boxed()),
            said: Arc::default(),
        }
    }

    fn last(&self) -> Option<Answers> {
        lock(&self.said).last.clone()
    }

    /// The question under way, or a new one.
    fn question(&self) -> Question {
        let mut said = lock(&self.said);
        let begin = || self.begin().boxed().shared();
        said.under_way.get_or_insert_with(begin).clone()
    }

    /// Asks in a task of its own, for it goes on when nobody waits any more.
    fn begin(&self) -> impl Future<Output = Answers> + use<> {
        let (asked, told) = (tokio::spawn((self.ask)()), Arc::clone(&self.said));
        let noted = tokio::spawn(async move {
            let answer = Arc::new(asked.await.unwrap_or_default());
            *lock(&told) = Said {
                under_way: None,
                last: Some(Arc::clone(&answer)),
            };
            answer
        });
        noted.map(Result::unwrap_or_default)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One class after the other, for each is a report of LVM.
async fn ask(classes: Vec<Class>, complaints: Arc<Complaints>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for class in &classes {
        let answer = ClassSpace::of(class).await.map_err(Failure::from);
        complain(&complaints, &class.config.name, answer.as_ref().err());
        answers.push(answer);
    }
    answers
}

fn complain(complaints: &Complaints, class: &str, failure: Option<&Failure>) {
    let mut complaints = lock(complaints);
    match failure {
        Some(failure) => {
            let before = complaints.insert(class.to_owned(), failure.message.clone());
            if before.as_ref() != Some(&failure.message) {
                tracing::warn!(class, error = %failure, "nobody is told of its room");
            }
        }
        None => {
            if complaints.remove(class).is_some() {
                tracing::info!(class, "its room is told again");
            }
        }
    }
}

impl ClassSpace {
    /// Asks the class's group.
    async fn of(class: &Class) -> Result<Self, volume::Error> {
        let group = class.group.free().await?;
        Ok(Self {
            name: class.config.name.clone(),
            default: class.config.default,
            free_bytes: class.free_bytes(&group),
            group,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use tokio::sync::Semaphore;
    use tonic::Code;

    use super::*;

    /// What is waited for groups that are silent.
    const SOON: Duration = Duration::from_millis(500);
    /// What is waited for groups that answer.
    const LONG: Duration = Duration::from_secs(60);

    fn space(name: &str) -> ClassSpace {
        ClassSpace {
            name: name.to_owned(),
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

    fn rooms(groups: Vec<Group>) -> Rooms {
        let order = groups.iter().map(|group| group.name.clone()).collect();
        Rooms { groups, order }
    }

    fn quick() -> Group {
        Group::new("quick", false, async || vec![Ok(space("quick"))])
    }

    fn failing() -> Group {
        Group::new("failing", true, async || {
            vec![Err(Failure::new(Code::Internal, "it is gone"))]
        })
    }

    /// A group that answers as often as the semaphore lets it, and how often it was asked.
    fn slow(has_default: bool) -> (Group, Arc<AtomicUsize>, Arc<Semaphore>) {
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, gate) = (Arc::clone(&asked), Arc::clone(&answers));
        let group = Group::new("slow", has_default, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("nobody closes it").forget();
                vec![Ok(space("slow"))]
            }
        });
        (group, asked, answers)
    }

    fn names(told: &Told) -> Vec<&str> {
        told.spaces.iter().map(|space| &space.name[..]).collect()
    }

    #[tokio::test]
    async fn a_group_that_does_not_answer_is_left_out_in_time_and_asked_once() {
        let (slow, asked, answers) = slow(true);
        let rooms = rooms(vec![slow, quick()]);
        let began = Instant::now();
        let (one, other) = tokio::join!(rooms.lately(SOON), rooms.lately(SOON));
        assert!(began.elapsed() < LONG);
        for told in [one, other] {
            assert_eq!((names(&told), told.is_whole), (vec!["quick"], false));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);

        answers.add_permits(1);
        let late = rooms.lately(LONG).await;
        assert_eq!((names(&late), late.is_whole), (vec!["slow", "quick"], true));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "the same question");
        answers.add_permits(1);
        rooms.lately(LONG).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "a new one");
    }

    #[tokio::test]
    async fn an_answer_that_came_when_nobody_waited_any_more_is_none_to_the_next_who_asks() {
        let (slow, asked, answers) = slow(true);
        let rooms = rooms(vec![slow]);
        rooms.lately(SOON).await;
        answers.add_permits(1);
        let answered = async {
            while rooms.groups[0].last().is_none() {
                tokio::task::yield_now().await;
            }
        };
        let answered = tokio::time::timeout(LONG, answered).await;
        answered.expect("it is noted though nobody waits");
        rooms.lately(SOON).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2, "a new question");
    }

    #[tokio::test]
    async fn of_a_silent_group_watchers_are_told_what_it_said_last_and_of_the_default_class_something()
     {
        let (slow, _, answers) = slow(true);
        let rooms = rooms(vec![quick(), slow]);
        let later = tokio::time::sleep(2 * SOON).map(|()| answers.add_permits(1));
        let (told, ()) = tokio::join!(rooms.now(SOON), later);
        let told = told.expect("it answers late");
        assert_eq!((names(&told), told.is_whole), (vec!["quick", "slow"], true));
        let told = rooms.now(SOON).await.expect("there is something to tell");
        assert_eq!(
            (names(&told), told.is_whole),
            (vec!["quick", "slow"], false)
        );
    }

    #[tokio::test]
    async fn watchers_are_told_of_the_groups_that_answer_while_others_fail_or_are_silent() {
        let (slow, ..) = slow(false);
        let rooms = rooms(vec![failing(), slow, quick()]);
        let told = rooms.now(SOON).await.expect("there is something to tell");
        assert_eq!((names(&told), told.is_whole), (vec!["quick"], false));
    }

    #[tokio::test]
    async fn the_only_group_that_answers_is_waited_for_and_none_is_a_failure() {
        let (slow, _, answers) = slow(false);
        let later = tokio::time::sleep(2 * SOON).map(|()| answers.add_permits(1));
        let rooms_with_slow = rooms(vec![failing(), slow]);
        let (told, ()) = tokio::join!(rooms_with_slow.now(SOON), later);
        assert_eq!(names(&told.expect("it answers late")), ["slow"]);
        let failure = rooms(vec![failing()]).now(SOON).await.err();
        assert_eq!(failure.expect("nothing to tell").message, "it is gone");
    }

    #[tokio::test]
    async fn watchers_are_not_told_what_was_asked_before_the_change() {
        let (slow, asked, answers) = slow(false);
        let rooms = rooms(vec![slow]);
        rooms.lately(SOON).await;
        let answered = async {
            while asked.load(Ordering::SeqCst) < 2 {
                answers.add_permits(1);
                tokio::task::yield_now().await;
            }
            answers.add_permits(1);
        };
        let (told, ()) = tokio::join!(rooms.now(SOON), answered);
        assert_eq!(names(&told.expect("it answers")), ["slow"]);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
