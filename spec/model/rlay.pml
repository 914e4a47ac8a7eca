/* rlay's attach-and-turn protocol, version 1 (PROTOCOL.md sections 4, 6, 7, 10, 11, 12 and 15), for Spin.
 *
 * Every load, store, lock, probe, rename and unlink is a step of its own, and SIGKILL may come at each of them and
 * in each wait. Whoever dies is restarted. Not one error may be reachable: no MUST below fails, no hang (a hang is an
 * invalid end state), and in the polling form no livelock under weak fairness.
 *
 * Sizes     NS servers, NC clients; at most KILLS kills, LEAVES ends by a side's own wish (a time-out or an error and
 *           then bye, an early close, a server that goes and comes back), REJECTS rejected hellos, REMOVALS of NAME.rlay
 *           or of a data file by an outsider, PROBES of both locks by a third party; STEPS exchanges, the last
 *           one CLOSE. They are upper bounds: smaller numbers are explored too, so an unused kill cannot hide a hang.
 * Form      POLL        waits are polling loops, and the property is LTL p; else waits are blocking guards
 *           SERVERENV   the server is the agent and the client the environment; else the other way round
 *           NOBYE       nobody looks at the bye words (safety must not depend on them)
 * Mutants   M_...       one rule is broken; README.md says which, and what must be found then
 *
 * A control file is a slot. A slot is used again only when nobody refers to it, so a slot's number stands for the
 * inode and the generation. The data file belongs to the slot too, as its name follows from the generation.
 */
#ifndef NS
#define NS 1
#endif
#ifndef NC
#define NC 1
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef LEAVES
#define LEAVES 0
#endif
#ifndef REJECTS
#define REJECTS 0
#endif
#ifndef REMOVALS
#define REMOVALS 0
#endif
#ifndef STEPS
#define STEPS 2
#endif
#define SLOTS (3+NS+NC)         /* 1 to SLOTS-1; 0 is no file */

/* What a failed MUST means; explore.py prints these words. "Wrong" is out of turn, torn or another session's. */
#define WRONG_REQUEST 1         /* wrong request served */
#define WRONG_REPLY 2           /* wrong reply accepted */
#define TORN_HANDSHAKE 3        /* torn handshake read */
#define LOST_HAND_OVER 4        /* published hand-over lost */
#define LIVE_SERVER 5           /* live server taken for dead */
#define LIVE_CLIENT 6           /* live client taken for dead */
#define TWO_CLIENTS 7           /* two clients in one session */
#define GOODBYE_AS_LOSS 8       /* goodbye reported as a loss */
#define FILE_LEFT 9             /* file left behind */
#define FILE_EXISTS 10          /* name of a new file taken */
#define TOO_FEW_SLOTS 11        /* the model has too few slots */
#define MUST(code, holds) assert((code)*(holds))

#define IDLE 0
#define SERVER 1
#define CLIENT 2
#define ACCEPTED 1
#define REJECTED 2

byte kills, leaves, rejects, removals;      /* what is left of the budgets */

/* the directory */
byte path;                      /* the control file NAME.rlay names, 0 for none */
bool tmp;                       /* a private control file is there */
bool named[SLOTS];              /* the data file of this generation has its name */
byte server_lock, client_lock;  /* who holds it, 0 for nobody; the holder may be a prober */

/* a control file, and the two records in its data file: seq and contents */
byte turn[SLOTS], hello[SLOTS], welcome[SLOTS];
bool claim[SLOTS], server_bye[SLOTS], client_bye[SLOTS];
byte request_seq[SLOTS], request[SLOTS], reply_seq[SLOTS], reply[SLOTS];

/* ghosts: what the rules are about, and no side can see */
byte references[SLOTS];         /* of the path, a server, clients */
byte inside[SLOTS];             /* living clients that claimed this file */
bool serving[SLOTS];            /* a living server, which has not said bye, has this file */
byte finished;                  /* clients that had a whole session, or a rejection */

#ifdef M_REINITIALISED
byte generation[SLOTS];
#define REPLACED (path!=f || generation[f]!=seen_generation)
#else
#define REPLACED (path!=f)
#endif
#if REMOVALS==0
#define UNDISTURBED             /* an outsider's removal ends a session of a living server, which is right */
#endif

#define KILL    :: atomic{ kills>0 -> kills--; goto die }
#define WISH    atomic{ leaves>0 -> leaves--; goto shut }
#define STEP(a) if :: a KILL fi

/* The writer finishes, then release-stores the turn. */
#ifdef M_TURN_FIRST
#define HAND_OVER(what, to, first, second) \
    if :: M_TURN_FIRST==what -> STEP(turn[f]=to); STEP(first); STEP(second) \
       :: M_TURN_FIRST!=what -> STEP(first); STEP(second); STEP(turn[f]=to) fi
#else
#define HAND_OVER(what, to, first, second) STEP(first); STEP(second); STEP(turn[f]=to)
#endif
#ifdef POLL
#define TAKE_CLIENT_LOCK if :: atomic{ client_lock==0 -> client_lock=me } :: client_lock!=0 -> goto back fi
#else
#define TAKE_CLIENT_LOCK atomic{ client_lock==0 -> client_lock=me }
#endif
#define THE_HELLO 1
#define THE_WELCOME 2
#define THE_REQUEST 3
#define THE_REPLY 4

/* Contents tell whose session they belong to (`who`, from the hello) and to which exchange. */
#define REQUEST(n) (who*8+(n))
#define REPLY(n)   (who*8+(n)+64)

inline drop(x){ d_step{
    if :: x!=0 -> references[x]--;
          if :: references[x]==0 -> turn[x]=IDLE; hello[x]=0; welcome[x]=0; claim[x]=0; server_bye[x]=0; client_bye[x]=0;
                request_seq[x]=0; request[x]=0; reply_seq[x]=0; reply[x]=0; inside[x]=0; serving[x]=0
             :: else fi;
          x=0
       :: else fi } }

inline new_file(x){ d_step{
    x=1; do :: x<SLOTS && (references[x]!=0 || named[x]) -> x++ :: else -> break od;
    MUST(TOO_FEW_SLOTS, x<SLOTS); references[x]=1; tmp=1 } }

/* The environment, when the turn has come: check the request, answer it. The answer to CLOSE ends the session. */
inline answer(to, own_bye){
    STEP(d_step{ MUST(WRONG_REQUEST, request_seq[f]==seq+1); MUST(WRONG_REQUEST, request[f]==REQUEST(seq+1)) });
    if :: WISH :: skip fi;
#ifdef M_BYE_FIRST
    if :: seq+1==STEPS -> STEP(own_bye=1); STEP(turn[f]=to); done=1; goto leave :: else fi;
#endif
    HAND_OVER(THE_REPLY, to, reply_seq[f]=seq+1, reply[f]=REPLY(seq+1));
    seq++;
    if :: seq==STEPS -> done=1; goto leave :: else -> goto wait fi
}

/* The agent, when the turn has come: check the reply, if one is due, and ask. The last request is CLOSE. */
inline ask(to){
    if :: seq!=0 -> STEP(d_step{ MUST(WRONG_REPLY, reply_seq[f]==seq); MUST(WRONG_REPLY, reply[f]==REPLY(seq)) })
       :: seq==0 fi;
    if :: seq==STEPS -> done=1; goto leave
       :: seq!=STEPS -> if :: WISH :: skip fi fi;
send:
    HAND_OVER(THE_REQUEST, to, request_seq[f]=seq+1, request[f]=REQUEST(seq+1));
    seq++;
    goto wait
}

proctype Server(byte me){
  byte f=0, next=0, who=0, seq=0; bool greeted=0, done=0, away=0;
start:
end_start:
#ifdef POLL
  if :: atomic{ server_lock==0 -> server_lock=me } :: server_lock!=0 -> goto start fi;
#else
  atomic{ server_lock==0 -> server_lock=me };      /* a second server waits here for ever; in fact it gives up */
#endif
sweep:
#ifndef M_NO_SWEEP
  STEP(d_step{ tmp=0; next=1; do :: next<SLOTS -> named[next]=0; next++ :: else -> break od; next=0 });
#endif
publish:
#ifdef M_REINITIALISED           /* 1: a server uses its file for the next session; 2: a restarted server does so too */
  if :: atomic{ path!=0 && (f!=0 || M_REINITIALISED==2) -> if :: f==0 -> f=path; references[f]++ :: else fi }
     :: else -> goto fresh fi;
  STEP(generation[f]=(generation[f]+1)%4); STEP(turn[f]=IDLE); STEP(hello[f]=0); STEP(welcome[f]=0);
  STEP(d_step{ request_seq[f]=0; request[f]=0; reply_seq[f]=0; reply[f]=0 });
  STEP(client_bye[f]=0); STEP(server_bye[f]=0); STEP(claim[f]=0);
  atomic{ serving[f]=1; goto idle };
fresh:
#endif
  STEP(new_file(next));
rename:
  STEP(atomic{ drop(f); f=path; path=next; references[next]++; serving[next]=1; drop(f); f=next; next=0; tmp=0 });
idle:
end_idle:
#ifdef POLL
  if :: turn[f]==SERVER -> goto greet :: turn[f]!=SERVER KILL fi;
 #ifndef M_IDLE_BLIND
  if :: claim[f] -> goto wait :: !claim[f] KILL fi;
 #endif
 #ifndef M_NO_REPUBLISH
  if :: path!=f -> goto leave :: path==f KILL fi;
 #endif
  if :: WISH :: goto idle fi;
#else
  if :: turn[f]==SERVER -> goto greet
 #ifndef M_IDLE_BLIND
     :: claim[f] -> goto wait                      /* from now on the client's life is watched */
 #endif
 #ifdef M_PROBE_FIRST
     :: atomic{ client_lock==0 -> skip }; if :: claim[f] -> MUST(LIVE_CLIENT, inside[f]==0); goto leave :: else -> goto idle fi
 #endif
 #ifndef M_NO_REPUBLISH
     :: path!=f -> goto leave                      /* somebody removed it: publish again */
 #endif
     :: WISH
     KILL fi;
#endif
greet:
  STEP(d_step{ who=hello[f]; MUST(TORN_HANDSHAKE, who!=0) });
  if :: atomic{ rejects>0 -> rejects-- }; HAND_OVER(THE_WELCOME, CLIENT, welcome[f]=REJECTED, skip); goto leave
     :: skip fi;
create_data:
  STEP(d_step{ MUST(FILE_EXISTS, !named[f]); named[f]=1 });
  HAND_OVER(THE_WELCOME, CLIENT, welcome[f]=ACCEPTED, skip);
  greeted=1;
wait:
#ifdef POLL
  if :: turn[f]==SERVER -> goto mine :: turn[f]!=SERVER KILL fi;
  if :: client_bye[f] -> goto gone :: !client_bye[f] KILL fi;
  if :: atomic{ client_lock==0 -> client_lock=me; MUST(LIVE_CLIENT, inside[f]==0) } -> STEP(client_lock=0); goto gone
     :: client_lock!=0 KILL fi;
 #ifndef M_NO_REPUBLISH
  if :: !greeted && path!=f -> goto leave :: greeted || path==f KILL fi;
 #endif
  if :: WISH :: goto wait fi;
#else
  if :: turn[f]==SERVER -> goto mine
 #ifndef NOBYE
     :: client_bye[f] -> goto gone
 #endif
     :: atomic{ client_lock==0 -> client_lock=me; MUST(LIVE_CLIENT, inside[f]==0) } -> STEP(client_lock=0); goto gone
 #ifndef M_NO_REPUBLISH
     :: !greeted && path!=f -> goto leave
 #endif
     :: WISH
     KILL fi;
#endif
gone:                                              /* the client's lock is free, or it said bye */
#ifndef M_NO_SECOND_LOOK
  if :: turn[f]==SERVER -> goto mine :: turn[f]!=SERVER KILL fi;
#endif
  MUST(LOST_HAND_OVER, turn[f]!=SERVER);
#ifndef NOBYE
 #ifndef M_BYE_READ_ONCE
  if :: client_bye[f] -> goto leave :: !client_bye[f] KILL fi;
 #endif
  /* a loss is reported */
  MUST(GOODBYE_AS_LOSS, !client_bye[f]);
#endif
  goto leave;
mine:
  if :: !greeted -> goto greet :: greeted fi;
#ifdef SERVERENV
  ask(CLIENT);
#else
  answer(CLIENT, server_bye[f]);
#endif
shut:
  away=1;                                          /* the server's own wish, with or without the turn */
leave:                                             /* end the session: bye, the data file, then the next file, or away */
  STEP(d_step{ server_bye[f]=1; serving[f]=0; who=0; seq=0; greeted=0; done=0 });
#ifndef M_NO_DATA_UNLINK
unlink_data:
  STEP(named[f]=0);
#endif
  if :: atomic{ away=0; goto publish } :: away fi;
#ifdef M_UNLINK_LATE
  away=(path==f); drop(f); STEP(server_lock=0);
  STEP(atomic{ if :: away -> f=path; path=0; drop(f) :: else fi; away=0 });
#else
unlink_control:
  STEP(atomic{ if :: path==f -> path=0; references[f]-- :: else fi });
  drop(f); STEP(d_step{ server_lock=0; away=0 });
#endif
  goto start;
die:                                               /* the kernel unmaps, then closes the descriptors one by one */
  atomic{ if :: f!=0 -> serving[f]=0 :: else fi; drop(f); drop(next); who=0; seq=0; greeted=0; done=0; away=0 };
  if :: client_lock==me -> client_lock=0 :: else fi;
  if :: server_lock==me -> server_lock=0 :: else fi;
  goto start
}

proctype Client(byte id, me){
  byte f=0, who=0, seq=0; bool odd=0, entered=0, done=0;
#ifdef M_REINITIALISED
  byte seen_generation=0;
#endif
again:
#ifdef M_LOCK_FIRST
  TAKE_CLIENT_LOCK;
#endif
open:                                              /* open and map, touching no lock */
  STEP(d_step{ f=path; if :: f!=0 -> references[f]++ :: else fi });
  if :: f==0 -> goto back :: f!=0 fi;
#if !defined(M_LOCK_FIRST) && !defined(M_REUSED)
look:
  if :: !claim[f] :: claim[f] -> goto back KILL fi;
#endif
#ifndef M_LOCK_FIRST
lock:
  TAKE_CLIENT_LOCK;
#endif
#ifdef M_REINITIALISED
  STEP(seen_generation=generation[f]);
#endif
#if !defined(M_REUSED) && !defined(M_CLAIM_READ_ONCE)
look_again:
  if :: !claim[f]
     :: claim[f] ->
 #ifdef M_KEEP_LOCK
        if :: REPLACED :: server_lock==0 KILL fi;
 #endif
        goto back
     KILL fi;
#endif
#ifdef M_PROBE_AT_ATTACH
  if :: atomic{ server_lock==0 -> server_lock=me } -> STEP(server_lock=0); goto back :: server_lock!=0 KILL fi;
#endif
claim_it:
  STEP(atomic{ claim[f]=1; inside[f]++; MUST(TWO_CLIENTS, inside[f]==1); odd=1-odd; who=1+2*id+odd; seq=0 });
  HAND_OVER(THE_HELLO, SERVER, hello[f]=who, skip);
wait:
#ifdef POLL
  if :: turn[f]==CLIENT -> goto mine :: turn[f]!=CLIENT KILL fi;
  if :: server_bye[f] -> goto gone :: !server_bye[f] KILL fi;
  if :: atomic{ server_lock==0 -> server_lock=me } -> STEP(server_lock=0); goto gone :: server_lock!=0 KILL fi;
 #ifndef M_NAME_LOCK_ONLY
  if :: REPLACED -> goto gone :: !(REPLACED) KILL fi;
 #endif
  if :: WISH :: goto wait fi;
#else
  if :: turn[f]==CLIENT -> goto mine
 #ifndef NOBYE
     :: server_bye[f] -> goto gone
 #endif
     :: atomic{ server_lock==0 -> server_lock=me } -> STEP(server_lock=0); goto gone
 #ifndef M_NAME_LOCK_ONLY
     :: REPLACED -> goto gone
 #endif
 #ifdef M_RESEND
     :: atomic{ leaves>0 && seq!=0 -> leaves-- }; if :: seq-- :: seq<STEPS fi; goto send  /* the same again, or the next one */
 #endif
     :: WISH
     KILL fi;
#endif
gone:                                              /* the server's lock is free, or its file another one, or it said bye */
#ifdef UNDISTURBED
  MUST(LIVE_SERVER, !serving[f]);
#endif
#ifndef M_NO_SECOND_LOOK
  if :: turn[f]==CLIENT -> goto mine :: turn[f]!=CLIENT KILL fi;
#endif
#ifdef UNDISTURBED
  MUST(LOST_HAND_OVER, turn[f]!=CLIENT);
 #ifndef NOBYE
  #ifndef M_BYE_READ_ONCE
  if :: server_bye[f] -> goto leave :: !server_bye[f] KILL fi;
  #endif
  /* a loss is reported */
  MUST(GOODBYE_AS_LOSS, !server_bye[f]);
 #endif
#endif
  goto leave;
mine:
  if :: !entered :: entered -> goto running fi;
  STEP(d_step{ MUST(TORN_HANDSHAKE, welcome[f]!=0); done=(welcome[f]==REJECTED) });
  if :: done -> goto leave :: !done fi;
map_data:
  if :: named[f] :: !named[f] -> goto leave KILL fi;       /* missing: the server, or its successor, has removed it */
  STEP(named[f]=0);
  entered=1;
#ifdef SERVERENV
ready:
  STEP(turn[f]=SERVER);
  goto wait;
running:
  answer(SERVER, client_bye[f]);
#else
running:
  ask(SERVER);
#endif
shut:
leave:
#ifdef M_UNLOCK_BEFORE_BYE
  STEP(d_step{ client_lock=0; inside[f]-- }); STEP(client_bye[f]=1); drop(f);
#else
  STEP(client_bye[f]=1);
  STEP(d_step{ inside[f]--; who=0; seq=0; entered=0 }); drop(f);
  STEP(client_lock=0);                             /* nothing is written after the lock is released */
#endif
  if :: done -> finished++; goto out :: !done -> goto pause fi;
back:                                              /* not now; the lock is never held in between */
  STEP(d_step{ if :: client_lock==me -> client_lock=0 :: else fi });
  drop(f);
pause:
#ifdef POLL
  goto again;
#elif defined(M_REUSED)
  path!=0; goto again;
#else
  path!=0 && !claim[path]; goto again;             /* a try could do something now */
#endif
die:
  atomic{ if :: who!=0 && f!=0 -> inside[f]-- :: else fi; drop(f); who=0; seq=0; entered=0; done=0 };
  if :: server_lock==me -> server_lock=0 :: else fi;
  if :: client_lock==me -> client_lock=0 :: else fi;
  goto again;
out: skip
}

#ifdef PROBES                   /* a third party that try-locks: a client at its deadline, a server that finds the lock taken */
proctype Prober(byte me){
  byte n=PROBES;
  do :: n>0 -> n--;
        if :: atomic{ server_lock==0 -> server_lock=me }; server_lock=0
           :: atomic{ client_lock==0 -> client_lock=me }; client_lock=0
           :: break fi
     :: n==0 -> break od
}
#endif

init {
  byte i;
  atomic {
    do :: kills<KILLS -> kills++ :: break od;
    do :: leaves<LEAVES -> leaves++ :: break od;
    do :: rejects<REJECTS -> rejects++ :: break od;
    do :: removals<REMOVALS -> removals++ :: break od;
    i=0; do :: i<NS -> run Server(i+1); i++ :: i==NS -> break od;
    i=0; do :: i<NC -> run Client(i, NS+1+i); i++ :: i==NC -> break od;
    i=0;
#ifdef PROBES
    run Prober(NS+NC+1);
#endif
  }
end_outsider:
  do
  :: atomic{ removals>0 && path!=0 -> removals--; i=path; path=0; drop(i) }
  :: atomic{ removals>0 && path!=0 && named[path] -> removals--; named[path]=0 }
#ifndef POLL
  :: timeout && finished==NC -> break              /* all is at rest */
#endif
  od;
at_rest:                                           /* nothing lies about but the control file and the locks */
  i=0; d_step{ do :: i<SLOTS -> MUST(FILE_LEFT, !named[i]); i++ :: else -> break od; MUST(FILE_LEFT, !tmp) }
}

#ifdef POLL
ltl p { <> (finished==NC) }
#endif
