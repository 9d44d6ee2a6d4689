//! Whether what was asked of the database was answered.

use std::pin::Pin;
use std::task::{Context, Poll};

use diesel::result::{Error, QueryResult};
use pin_project_lite::pin_project;

pin_project! {
    /// A question to the database that is known to be unanswered when it is dropped so.
    #[derive(Debug)]
    pub struct Watched<'a, F> {
        #[pin]
        question: Option<F>,
        refusal: Option<Error>,
        unanswered: &'a mut bool,
    }
}

impl<'a, F> Watched<'a, F> {
    pub(crate) fn new(unanswered: &'a mut bool, question: F) -> Self {
        Self { question: Some(question), refusal: None, unanswered }
    }

    /// One that is not asked.
    pub(crate) fn refused(unanswered: &'a mut bool, refusal: Error) -> Self {
        Self { question: None, refusal: Some(refusal), unanswered }
    }
}

impl<T, F: Future<Output = QueryResult<T>>> Future for Watched<'_, F> {
    type Output = QueryResult<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<QueryResult<T>> {
        let this = self.project();
        let Some(question) = this.question.as_pin_mut() else {
            let refusal = this.refusal.take();
            return Poll::Ready(Err(refusal.unwrap_or(Error::BrokenTransactionManager)));
        };
        // Before it is polled: one that panics is not answered either.
        **this.unanswered = true;
        let answer = question.poll(cx);
        **this.unanswered = answer.is_pending();
        answer
    }
}
