import torch
def test_nan(run):
    now = run("BERT4Rec", seed=43)
    orig = now.trainer.model.calculate_loss
    seen=[]
    def spy(b):
        l=orig(b); seen.append((len(b["user_id"]), int((b["MASK_INDEX"]>0).sum()), float(l))); return l
    now.trainer.model.calculate_loss=spy
    try: now.fit()
    except Exception as e: print(type(e).__name__)
    print([s for s in seen if s[1]==0 or s[2]!=s[2]], len(now.train.dataset), seen[-3:])
