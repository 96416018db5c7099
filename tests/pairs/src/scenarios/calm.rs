//! Nothing happens.

use anyhow::Result;
use tokio::time::sleep;

use super::{Judged, Long};
use crate::{
    backend::Rate,
    crowd::Habits,
    ledger::{Allowed, Rules},
    stage::{Bounds, Stage},
    world::{Queue, Shape},
};

pub(super) async fn run(long: Long) -> Result<Judged> {
    let mut stage =
        Stage::open(&Shape::of(Queue::Stream), Habits::default(), Rate::default(), long.seed).await?;
    stage.begin().await;
    sleep(long.lasts).await;
    stage.look_around(&Bounds::default()).await;
    Ok((stage.end(&Rules::default()).await, Allowed::nothing()))
}
