//! Takes the messages that clients send.

use broker::PublishError;
use contract::{ClientMessage, LogicError, MessageReply};
use grpc::envelope::{Envelope, Target};
use proto::op::Op;
use seam::wall_micros;
use tracing::trace;

use super::Logic;
use crate::{config::ClientMessages, metrics::MessageResult};

impl Logic {
    /// Publishes a message of operation 4 to the sender's room, if the configuration says so. Answers everything else
    /// with an empty body, since logic does not know what it means.
    pub(super) async fn take_message(&self, message: ClientMessage) -> Result<MessageReply, LogicError> {
        let origin = Some(message.origin());
        let ClientMessage { mid, key, room, header, body } = message;
        let is_said = header.op == Op::SEND_MESSAGE;
        let Some(room) = room.filter(|_| is_said && self.client_messages == ClientMessages::Room) else {
            trace!(%mid, %key, op = %header.op, bytes = body.len(), "a client's message goes nowhere");
            self.metrics.client_messages.of(MessageResult::Empty).inc();
            return Ok(MessageReply::Body(bytes::Bytes::new()));
        };
        let accepted_at_us = wall_micros();
        let target = Target::Room(room);
        let envelope = Envelope { target, op: Op::SEND_MESSAGE_REPLY, body, accepted_at_us, origin };
        let published = self.publish(vec![envelope], accepted_at_us).await;
        let result = if published.is_ok() { MessageResult::Room } else { MessageResult::Failed };
        self.metrics.client_messages.of(result).inc();
        match published {
            Ok(()) => Ok(MessageReply::Room),
            Err(PublishError::Full(_)) => Err(LogicError::Overloaded),
            Err(error) => Err(LogicError::Unavailable(error.to_string())),
        }
    }
}
