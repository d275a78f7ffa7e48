#include "gateway/deadline.h"

static void on_timer(uv_timer_t *timer);

static void arm(struct deadline_queue *queue)
{
    if (list_empty(&queue->waiting))
        return;
    const struct deadline *first = list_entry(queue->waiting.next, struct deadline, link);
    uint64_t now = uv_now(queue->timer.loop);
    uv_timer_start(&queue->timer, on_timer, first->at > now ? first->at - now : 0, 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct deadline_queue *queue = timer->data;
    uint64_t now = uv_now(timer->loop);
    while (!list_empty(&queue->waiting)) {
        struct deadline *first = list_entry(queue->waiting.next, struct deadline, link);
        if (first->at > now)
            break;
        list_remove(&first->link);
        queue->expired(first);
    }
    arm(queue);
}

void deadline_queue_init(struct deadline_queue *queue, uv_loop_t *loop, uint64_t duration_ms,
                         void (*expired)(struct deadline *deadline))
{
    list_init(&queue->waiting);
    queue->duration_ms = duration_ms;
    queue->expired = expired;
    uv_timer_init(loop, &queue->timer);
    queue->timer.data = queue;
}

/* The queue stays in order: all that is cut is cut to the same moment, and whatever comes later comes no sooner. */
void deadline_queue_set_duration(struct deadline_queue *queue, uint64_t duration_ms)
{
    uint64_t latest = uv_now(queue->timer.loop) + duration_ms;
    bool shorter = duration_ms < queue->duration_ms;
    queue->duration_ms = duration_ms;
    for (struct list *link = queue->waiting.next; shorter && link != &queue->waiting; link = link->next) {
        struct deadline *deadline = list_entry(link, struct deadline, link);
        if (deadline->at > latest)
            deadline->at = latest;
    }
    if (shorter)
        arm(queue);
}

void deadline_queue_finish(struct deadline_queue *queue)
{
    uv_close((uv_handle_t *)&queue->timer, NULL);
}

void deadline_init(struct deadline *deadline)
{
    list_init(&deadline->link);
}

void deadline_start(struct deadline_queue *queue, struct deadline *deadline)
{
    list_remove(&deadline->link);
    deadline->at = uv_now(queue->timer.loop) + queue->duration_ms;
    list_append(&queue->waiting, &deadline->link);
    if (!uv_is_active((uv_handle_t *)&queue->timer))
        arm(queue);
}

/* The timer is left to fire: it finds out by itself that nobody waits any more. */
void deadline_stop(struct deadline *deadline)
{
    list_remove(&deadline->link);
}
