//! Random lives of logins: whatever the order, Redis ends up with the truth.

use futures_util::{StreamExt as _, stream};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::*;
use crate::model::{Login, Model, Step, steps};

const CASES: usize = 10_000;

/// Cases under way at once.
const TOGETHER: usize = 100;

/// `SEED=… cargo test …` runs the cases of an earlier run again.
fn runner() -> TestRunner {
    let seed =
        std::env::var("SEED").map_or_else(|_| uuid::Uuid::new_v4().as_u128(), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 2].concat());
    TestRunner::new_with_rng(Config::default(), rng)
}

/// Keys and users of a case are no other case's.
fn scoped(case: usize, session: SessionRef) -> SessionRef {
    let key = Key::new(format!("{case}-{}", session.key));
    SessionRef { mid: Mid(session.mid.0 + 10 * case as i64), key, ..session }
}

fn session(case: usize, login: Login) -> NewSession {
    let SessionRef { mid, key, server, .. } = scoped(case, login.reference(true));
    NewSession { mid, key, server, generation: Generation(login.generation) }
}

async fn run(case: usize, steps: &[Step], sessions: &RedisSessions) {
    let mut model = Model::default();
    for step in steps {
        let done = match *step {
            Step::Put(l) => matches!(sessions.put(session(case, l)).await.unwrap(), Put::Stored { .. }),
            Step::End(l, fenced) => sessions.end(&scoped(case, l.reference(fenced))).await.unwrap(),
            Step::Renew(l, fenced) => {
                sessions.renew(&[scoped(case, l.reference(fenced))]).await.unwrap() == [Renewal::Current]
            }
            Step::Wait(_) => continue,
        };
        assert_eq!(Some(done), model.step(*step), "{step:?} of case {case}: {steps:#?}");
    }
    let truth: Vec<Option<StoredSession>> = (0..3)
        .map(|key| {
            let (mid, server, generation, _) = *model.rows.get(&key)?;
            let session = Login { mid, key, server, generation }.reference(generation > 0);
            let SessionRef { mid, key, server, generation } = scoped(case, session);
            Some(StoredSession { mid: Some(mid), key, server, generation })
        })
        .collect();
    let keys: Vec<Key> = (0..3).map(|key| Key::new(format!("{case}-{key}"))).collect();
    assert_eq!(sessions.sessions_of_keys(&keys).await.unwrap(), truth, "case {case}: {steps:#?}");
    for mid in (0..3).map(|mid| Mid(mid + 10 * case as i64)) {
        let mut all = redis::cmd("HGETALL");
        all.arg(format!("golang_im:mid_{mid}"));
        let stored: BTreeMap<String, String> = sessions.redis.command(&all).await.unwrap();
        let of_mid = truth.iter().flatten().filter(|session| session.mid == Some(mid));
        let expected = of_mid.map(|session| (session.key.to_string(), session.server.to_string())).collect();
        assert_eq!(stored, expected, "what Go reads of user {mid} in case {case}: {steps:#?}");
    }
}

#[tokio::test]
async fn ten_thousand_interleavings_leave_the_truth() {
    let setup = Setup::new().await;
    let sessions = setup.sessions().await;
    let mut runner = runner();
    let steps = steps(10);
    let cases: Vec<Vec<Step>> = (0..CASES).map(|_| steps.new_tree(&mut runner).unwrap().current()).collect();
    let runs = cases.iter().enumerate().map(|(case, steps)| run(case, steps, &sessions));
    stream::iter(runs).buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
}

/// Really at once, through two logics with a connection each: of five logins of a key, on one comet or two, all but the
/// last end, in whatever order all of it arrives.
#[tokio::test]
async fn the_newest_login_stays_however_the_others_come_and_go_at_once() {
    let setup = Setup::new().await;
    let other = Redis::connect(&config(&setup.server)).unwrap();
    other.ready().wait_for(|ready| *ready).await.map(|_| ()).unwrap();
    let logics = [setup.sessions().await, started(RedisSessions::new(other, &config(&setup.server))).await];
    let race = async |case: usize| {
        let key = format!("k{case}");
        let server = |n: i64| if case.is_multiple_of(2) { "a:1".to_owned() } else { format!("{}:1", n % 2) };
        let life = async |n: i64| {
            let logic = &logics[n as usize % 2];
            logic.put(new(1, &key, &server(n), n)).await.unwrap();
            if n < 5 {
                logic.renew(&[reference(1, &key, &server(n), Some(n))]).await.unwrap();
                logic.end(&reference(1, &key, &server(n), Some(n))).await.unwrap();
            }
        };
        tokio::join!(life(1), life(5), life(2), life(4), life(3));
        let found = logics[0].sessions_of_keys(&[Key::new(key.as_str())]).await.unwrap().remove(0);
        let found = found.expect("the newest stays");
        assert_eq!((found.generation, found.server.as_str()), (Some(Generation(5)), &server(5)[..]));
    };
    stream::iter((0..1000).map(race)).buffer_unordered(20).collect::<Vec<()>>().await;
}
