/* The turn of a step: how we give it away, and how we wait until it is ours again. */

#include "_exchange.h"

/* Looks at the turn before the clock is asked how long to spin: about a microsecond. */
#define FIRST_LOOKS 40
#define SHORTEST_SPIN_NS 1000
/* Steps between two looks whether our handler of SIGBUS still is the one; a power of two. */
#define STEPS_PER_GUARD 1024

bool rlay_send(Exchange *self)
{
    Prefix *prefix = (Prefix *)self->ours.buf;
    prefix->seq = self->seq;
    prefix->command = self->step;
    prefix->status = 0;
    prefix->body_size = 0;
    if (rlay_is_lost(self))
        return false;
    if (self->seq % STEPS_PER_GUARD == 0)
        rlay_shield_again();
    rlay_hand_over(self->turn, self->their_turn, self->their_waiting);
    return true;
}

/* As Adaptive.learn in rlay/channel/wait.py; the other strategies leave no room to learn. */
static void learn(Exchange *self, enum waited waited, int64_t took)
{
    if (self->longest_spin_ns == self->spin_ns && waited == WAIT_SPUN)
        return;
    if (waited == WAIT_SPUN || took < self->longest_spin_ns) {
        self->spin_ns = self->spin_ns < SHORTEST_SPIN_NS ? SHORTEST_SPIN_NS : self->spin_ns * 2;
        if (self->spin_ns > self->longest_spin_ns)
            self->spin_ns = self->longest_spin_ns;
    } else {
        self->spin_ns /= 2;
    }
}

int rlay_await_turn(Exchange *self, int64_t slice_ns)
{
    if (self->spin_ns > 0)
        for (int i = 0; i < FIRST_LOOKS; i++) {
            if (load(self->turn) == self->our_turn)
                return 1;
            relax();
        }
    uint32_t value = load(self->turn);
    if (value == self->our_turn)
        return 1;
    int64_t start = rlay_now_ns();
    if (self->nap_ns > 0 && self->nap_ns < slice_ns)
        slice_ns = self->nap_ns;
    cell_t *waiting = self->nap_ns > 0 ? &self->unannounced : self->our_waiting;
    enum waited waited = rlay_wait_while(self->turn, value, waiting, self->spin_ns, slice_ns);
    if (waited == WAIT_RAISED)
        return -1;
    if (load(self->turn) != self->our_turn)
        return 0;
    learn(self, waited, rlay_now_ns() - start);
    return 1;
}
