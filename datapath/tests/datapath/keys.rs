//! Passphrases of encrypted repositories: which open them, and which do not.

use std::{sync::Arc, time::Duration};

use ringback_datapath::{
    crypt::Passphrase,
    error::{Error, ErrorKind},
    keys::{KeyError, KeySlots, SlotId},
    repository::Repository,
    store::ObjectStore,
};

use crate::support::{Bed, assert_same, noise, passphrase};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

async fn open(bed: &Bed, passphrase: Option<&Passphrase>) -> Result<Repository, Error> {
    let store = bed.client(PATIENCE).store().await;
    Repository::open(Arc::new(store), passphrase).await
}

async fn opens(bed: &Bed, text: &str) -> bool {
    match open(bed, Some(&passphrase(text))).await {
        Ok(_) => true,
        Err(Error::WrongPassphrase { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A bed whose repository is there, under the passphrase "first".
async fn bed() -> Bed {
    let bed = Bed {
        passphrase: Some(passphrase("first")),
        ..Bed::new().await
    };
    bed.repository().await;
    bed
}

async fn slots(bed: &Bed) -> Vec<String> {
    let store = bed.client(PATIENCE).store().await;
    let listed = store.list("keys/", None).await.expect("listed");
    listed.into_iter().map(|it| it.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_passphrase_opens_an_encrypted_repository_and_none_another() {
    let bed = bed().await;
    let refused = [
        (open(&bed, None).await, "is encrypted; give its passphrase"),
        (
            open(&bed, Some(&passphrase("First"))).await,
            "is none of those",
        ),
    ];
    for (refused, says) in refused {
        let error = refused.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(open(&bed, bed.passphrase.as_ref()).await.is_ok());

    let plain = Bed::new().await;
    plain.repository().await;
    let error = open(&plain, Some(&passphrase("first"))).await.err();
    let error = error.expect("not encrypted");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("is not encrypted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_make_one_encrypted_repository_at_once_all_use_it() {
    let bed = Bed::encrypted().await;
    let volumes: Vec<_> = (0..4)
        .map(|n| bed.volume(&format!("v{n}"), MIB, &[(0, noise(n, 1 << 20))]))
        .collect();
    let names: Vec<String> = (0..4).map(|n| format!("b{n}")).collect();
    let backups = volumes.iter().zip(&names);
    let backups = backups.map(|(volume, name)| bed.backup(volume, name));
    for made in futures::future::join_all(backups).await {
        made.expect("backed up");
    }
    for (volume, name) in volumes.iter().zip(&names) {
        assert_same(volume, &bed.restore(name).await.expect("restored"));
    }
    // Slots of those who came second are passed over, and can be removed.
    let repository = open(&bed, bed.passphrase.as_ref()).await.expect("opens");
    let keys = KeySlots::of(&repository).expect("encrypted");
    let all = keys.list().await.expect("listed");
    let own: Vec<_> = all.iter().filter(|slot| slot.is_own).collect();
    assert_eq!(own.len(), 1, "{all:?}");
    let given = bed.passphrase.as_ref().expect("given");
    for slot in all.iter().filter(|slot| slot.about.is_none()) {
        keys.remove(slot.id, given, false).await.expect("removed");
    }
    assert_eq!(slots(&bed).await.len(), 1);
    assert!(open(&bed, bed.passphrase.as_ref()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn passphrases_are_added_changed_and_removed_and_the_data_stays() {
    let bed = bed().await;
    let volume = bed.volume("volume", MIB, &[(0, noise(1, 1 << 20))]);
    bed.backup(&volume, "one").await.expect("backed up");
    let repository = open(&bed, bed.passphrase.as_ref()).await.expect("opens");
    let keys = KeySlots::of(&repository).expect("encrypted");
    let second = keys.add(&passphrase("second"), "laptop").await;
    let second = second.expect("added");
    assert!(opens(&bed, "first").await && opens(&bed, "second").await);

    let all = keys.list().await.expect("listed");
    let labels = |own: bool| {
        let slots = all.iter().filter(move |slot| slot.is_own == own);
        let about = slots.filter_map(|slot| slot.about.clone());
        about.map(|about| about.label).collect::<Vec<_>>()
    };
    assert_eq!(
        (labels(true), labels(false)),
        (vec!["first".into()], vec!["laptop".into()])
    );

    let repository = open(&bed, Some(&passphrase("second")))
        .await
        .expect("opens");
    let of_second = KeySlots::of(&repository).expect("encrypted");
    let third = of_second
        .change(&passphrase("third"))
        .await
        .expect("changed");
    assert!(!opens(&bed, "second").await && opens(&bed, "third").await);
    let all = keys.list().await.expect("listed");
    let changed = all.iter().find(|slot| slot.id == third).expect("there");
    assert_eq!(changed.about.as_ref().expect("fits").label, "laptop");
    assert!(!all.iter().any(|slot| slot.id == second));

    let first = all.iter().find(|slot| slot.is_own).expect("there").id;
    let repository = open(&bed, Some(&passphrase("third"))).await.expect("opens");
    let of_third = KeySlots::of(&repository).expect("encrypted");
    let removed = of_third.remove(first, &passphrase("third"), false).await;
    removed.expect("removed");
    assert!(!opens(&bed, "first").await && opens(&bed, "third").await);
    let bed = Bed {
        passphrase: Some(passphrase("third")),
        ..bed
    };
    assert_same(&volume, &bed.restore("one").await.expect("restored"));
    bed.backup(&volume, "two").await.expect("backed up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_lock_everybody_out_or_help_nobody_is_refused() {
    let bed = bed().await;
    let repository = open(&bed, bed.passphrase.as_ref()).await.expect("opens");
    let keys = KeySlots::of(&repository).expect("encrypted");
    let given = passphrase("first");
    let own = keys.list().await.expect("listed")[0].id;
    for even_own in [false, true] {
        let last = keys.remove(own, &given, even_own).await;
        assert!(matches!(last, Err(KeyError::Last { slot }) if slot == own));
    }
    let other: SlotId = "ab".repeat(16).parse().expect("an id");
    let absent = keys.remove(other, &given, false).await;
    assert!(matches!(absent, Err(KeyError::NoSlot { .. })));
    let same = keys.add(&given, "").await;
    assert!(matches!(same, Err(KeyError::Taken { slot }) if slot == own));
    let same = keys.change(&given).await;
    assert!(matches!(same, Err(KeyError::Taken { .. })));
    let long = keys.add(&passphrase("other"), &"x".repeat(201)).await;
    assert!(matches!(long, Err(KeyError::Label { bytes: 201 })));
    assert_eq!(slots(&bed).await.len(), 1);

    keys.add(&passphrase("other"), "").await.expect("added");
    let in_use = keys.remove(own, &given, false).await;
    assert!(matches!(in_use, Err(KeyError::InUse { .. })));
    keys.remove(own, &given, true).await.expect("removed");
    assert!(!opens(&bed, "first").await && opens(&bed, "other").await);

    let plain = Bed::new().await;
    let repository = plain.repository().await;
    let none = KeySlots::of(&repository).err().expect("no keys");
    assert!(matches!(none, KeyError::NotEncrypted { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_remove_each_others_slots_do_not_lock_everybody_out() {
    let bed = bed().await;
    let first = open(&bed, bed.passphrase.as_ref()).await.expect("opens");
    let of_first = KeySlots::of(&first).expect("encrypted");
    let second_slot = of_first
        .add(&passphrase("second"), "")
        .await
        .expect("added");
    let second = open(&bed, Some(&passphrase("second")))
        .await
        .expect("opens");
    let of_second = KeySlots::of(&second).expect("encrypted");
    let all = of_first.list().await.expect("listed");
    let first_slot = all.iter().find(|it| it.is_own).expect("own").id;

    let held = bed.endpoint.hold_replies();
    let (one, two) = (passphrase("first"), passphrase("second"));
    let removals = async {
        tokio::join!(
            of_first.remove(second_slot, &one, false),
            of_second.remove(first_slot, &two, false),
        )
    };
    let released = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
    };
    let (both, ()) = tokio::join!(removals, released);
    let last = |it: &Result<(), KeyError>| matches!(it, Err(KeyError::Last { .. }));
    assert!(both.0.is_ok() || last(&both.0), "{both:?}");
    assert!(both.1.is_ok() || last(&both.1), "{both:?}");
    assert!(opens(&bed, "first").await || opens(&bed, "second").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_slot_is_passed_over_and_named_to_whom_no_other_opens() {
    let bed = bed().await;
    let store = bed.client(PATIENCE).store().await;
    let repository = open(&bed, bed.passphrase.as_ref()).await.expect("opens");
    let keys = KeySlots::of(&repository).expect("encrypted");
    let first = slots(&bed).await.remove(0);
    keys.add(&passphrase("second"), "").await.expect("added");
    let whole = store.get(&first).await.expect("got");
    store
        .put(&first, whole.slice(..100).into())
        .await
        .expect("put");
    assert!(opens(&bed, "second").await && !opens(&bed, "first").await);
    let error = open(&bed, bed.passphrase.as_ref()).await.err();
    let error = error.expect("its slot is damaged").to_string();
    assert!(error.contains(&first), "{error}");

    for slot in slots(&bed).await.iter().filter(|slot| **slot != first) {
        store.delete(slot).await.expect("removed");
    }
    for (is_there, object) in [(true, &first[..]), (false, "keys/")] {
        if !is_there {
            store.delete(&first).await.expect("removed");
        }
        let error = open(&bed, bed.passphrase.as_ref()).await.err();
        let error = error.expect("cannot be opened");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains(object), "{error}");
    }
}
